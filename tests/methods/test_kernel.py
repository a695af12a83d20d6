"""Mean-embedding methods: what they release, what it costs, and that nothing else reaches the generator."""

import dp_accounting
import pytest
import torch

from dpib import seeding
from dpib.config import compose
from dpib.errors import UserError
from dpib.images import Images
from dpib.kernels.features import build
from dpib.methods.kernel import KernelSettings, MeanEmbedding
from dpib.privacy.audit.findings import failed
from dpib.privacy.audit.sums import audit_sum
from dpib.privacy.calibrate import solve
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.synthesizer import Task
from tests.quiet import Quiet

TASK = Task((1, 8, 8), 3, 0, torch.device("cpu"))
FOURIER = {"kind": "fourier", "dimension": 60, "bandwidths": [20.0, 100.0]}
NTK = {"kind": "ntk", "hidden": [12]}
DEEP = {"kind": "ntk", "hidden": [9, 7], "outputs": 3}
JOINED = {"kind": "joined", "maps": [FOURIER, DEEP], "shares": [0.4, 0.6]}
CONV = {"kind": "conv_ntk", "channels": [3, 4]}
KINDS = pytest.mark.parametrize(
    "features", [FOURIER, NTK, DEEP, CONV, JOINED], ids=["fourier", "ntk", "deep ntk", "conv ntk", "joined"]
)


def make(features=FOURIER, seed=0, **train):
    fit = {"steps": 4, "batch": 12, "lr": 0.01}
    settings = KernelSettings(
        features=features,
        network={"name": "small", "latent": 4, "width": 4, "hidden": 20},
        pretrain=fit,
        train={**fit, **train},
    )
    return MeanEmbedding(settings, Task(TASK.shape, TASK.classes, seed, TASK.device))


def records(n=40, seed=0):
    stream = seeding.generator(seed, "records")
    return Images(torch.randint(0, 256, (n, 1, 8, 8), generator=stream, dtype=torch.uint8), torch.arange(n) % 3)


def vault(method, images, folder, sigma=1.0, noise=None):
    """Return a vault of a budget without end: what is tested here is the mechanism, not the budget."""
    folder.mkdir(exist_ok=True)
    account = Account(dataset="toy", relation="zero_out", epsilon=1e30, delta=1e-3, scopes={"train": len(images)})
    plan = tuple(charge.at(sigma) for charge in method.plan(len(images)))
    source = noise if noise is not None else NoiseSource(1)
    return Vault(images, "train", Ledger.open(folder / "l.json", account), plan, source, folder)


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.generator.network.parameters()])


@KINDS
def test_any_record_moves_the_release_by_at_most_one_and_the_noise_is_what_is_charged(features):
    method = make(features)
    (charge,) = method.plan(40)
    found = audit_sum(charge.at(1.5), method._features("train"), TASK.shape, TASK.classes)
    assert failed(found) == []
    (worst,) = (finding.value for finding in found if finding.check == "largest change by one adversarial record")
    assert worst == pytest.approx(1, abs=1e-5)  # the bound is attained: no clip loses signal


@pytest.mark.parametrize("name", ["dp-merf", "dp-ntk", "dp-kernel"])
def test_one_release_costs_what_the_analytic_gaussian_mechanism_costs(name):
    config, _ = compose({"method": name, "dataset": "mnist_28"})
    charges = MeanEmbedding(config.recipe, Task((1, 28, 28), 10, 0, torch.device("cpu"))).plan(55_000)
    delta = 1.67e-6
    (solved,) = solve(charges, scope="train", n=55_000, relation="zero_out", epsilon=1, delta=delta)
    assert solved.sigma == pytest.approx(dp_accounting.get_sigma_gaussian(1, delta), rel=2e-3)
    assert (solved.count, solved.rate, solved.counts) == (1, 1.0, True)


@KINDS
def test_nothing_is_left_of_the_images_under_noise_without_end(features, tmp_path):
    """The generator and the class shares are then the same whatever the sensitive images are."""
    methods = []
    for seed in (0, 1):
        images = records(seed=seed)
        method = make(features)
        method.train(vault(method, Images(images.x, (images.y + seed) % 3), tmp_path / str(seed), sigma=1e15), Quiet())
        methods.append(method)
    assert torch.equal(weights(methods[0]), weights(methods[1]))
    assert torch.allclose(methods[0].class_proportions(), methods[1].class_proportions(), rtol=1e-9)


@KINDS
def test_other_images_make_another_generator(features, tmp_path):
    methods = [make(features), make(features)]
    for seed, method in enumerate(methods):
        method.train(vault(method, records(seed=seed), tmp_path / str(seed), sigma=1e-3), Quiet())
    assert not torch.equal(weights(methods[0]), weights(methods[1]))


class OneWay:
    """A vault that gives one release, and nothing after it: no record, no second look."""

    def __init__(self, inner):
        self._inner = [inner]

    def release_sum(self, name, feature):
        return self._inner.pop().release_sum(name, feature)


@KINDS
def test_training_has_no_data_after_its_release(features, tmp_path):
    method, direct = make(features), make(features)
    method.train(OneWay(vault(method, records(), tmp_path / "a")), Quiet())
    direct.train(vault(direct, records(), tmp_path / "b"), Quiet())
    assert torch.equal(weights(method), weights(direct))
    # Nor is anything un-noised kept in what the generator is fitted by.
    feature = method._features("train")
    before = set(vars(feature))
    feature.weighted_sum(records().x, records().y, torch.ones(40))
    feature.norms(records().x, records().y)
    assert set(vars(feature)) == before


@KINDS
def test_the_features_follow_from_the_seed(features):
    x, y = records().x, records().y
    sums = [make(features, seed)._features("train").weighted_sum(x, y, torch.ones(40)) for seed in (0, 0, 1)]
    assert torch.equal(sums[0], sums[1])
    assert not torch.equal(sums[0], sums[2])


@KINDS
def test_it_learns_from_public_images_and_survives_saving(features):
    method, other = make(features), make(features, seed=1)
    untrained = weights(method)
    method.pretrain(Images(records().x, torch.arange(40) % 7), Quiet())
    assert not torch.equal(weights(method), untrained)
    other.load_state_dict(method.state_dict())
    labels, stream = torch.tensor([2, 0, 1]), seeding.generator(0, "g")
    drawn = method.generate(labels, stream)
    assert torch.equal(drawn.x, other.generate(labels, stream.manual_seed(stream.initial_seed())).x)
    assert torch.equal(drawn.y, labels)


def test_the_charge_is_one_gaussian_release():
    (charge,) = make(noise_multiplier=3.0).plan(40)
    assert charge == Charge("embedding", "gaussian", charge.label, sigma=3.0, counts=True)


STEPS = {"release": "per_step", "records": 10}


class Counted(NoiseSource):
    """Counts the draws of noise."""

    def __init__(self, seed):
        super().__init__(seed)
        self.draws = 0

    def normal(self, shape):
        self.draws += 1
        return super().normal(shape)


@pytest.mark.parametrize("features", [FOURIER, NTK], ids=["fourier", "ntk"])
def test_a_release_per_step_is_one_charge_of_a_sampled_gaussian(features, tmp_path):
    method = make(features, **STEPS)
    (charge,) = method.plan(40)
    assert (charge.rate, charge.count, charge.counts) == (0.25, 4, True)
    assert failed(audit_sum(charge.at(1.5), method._features("train"), TASK.shape, TASK.classes)) == []
    guarded = vault(method, records(), tmp_path)
    method.train(guarded, Quiet())
    events = guarded._ledger.account.events
    assert [(e.id, e.sigma, e.rate, e.count) for e in events] == [("train/embedding", 1.0, 0.25, 4)]


def test_all_steps_cost_what_the_accountant_says_of_them():
    (charge,) = make(**STEPS, steps=30).plan(1000)
    (solved,) = solve([charge], scope="train", n=1000, relation="zero_out", epsilon=1, delta=1e-4)
    event = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(solved.sigma))
    accountant = dp_accounting.pld.PLDAccountant().compose(dp_accounting.SelfComposedDpEvent(event, 30))
    assert accountant.get_epsilon(1e-4) == pytest.approx(1, rel=2e-3)


def test_a_sample_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match=r"train\.records=10 exceeds the 9 training images: lower it"):
        make(**STEPS).plan(9)


@pytest.mark.parametrize(("train", "draws"), [({}, 1), (STEPS, 4), ({**STEPS, "records": 1}, 4)])
def test_noise_is_drawn_once_for_each_release_and_for_empty_samples_too(train, draws, tmp_path):
    method, noise = make(**train), Counted(3)
    images = records(40 if train.get("records") != 1 else 3000)  # of which most samples have one record or none
    method.train(vault(method, images, tmp_path, noise=noise), Quiet())
    assert noise.draws == draws


def test_an_empty_sample_is_released_as_noise(tmp_path):
    method = make(**{**STEPS, "records": 1})
    images = records(3000)
    (charge,) = method.plan(len(images))

    class Nobody(NoiseSource):
        def bernoulli(self, n, rate):
            return torch.zeros(n, dtype=torch.bool)

    guarded = vault(method, images, tmp_path, sigma=2.0, noise=Nobody(1))
    noised = guarded.release_sum(charge.name, method._features("train"))
    assert noised.shape == (3, 61)
    assert float(noised.std()) == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize("features", [FOURIER, NTK], ids=["fourier", "ntk"])
def test_steps_learn_nothing_under_noise_without_end_and_something_without_noise(features, tmp_path):
    def trained(seed, sigma):
        method, images = make(features, **STEPS), records(seed=seed)
        method.train(vault(method, images, tmp_path / f"{seed}-{sigma}", sigma), Quiet())
        return weights(method)

    assert torch.equal(trained(0, 1e15), trained(1, 1e15))
    assert not torch.equal(trained(0, 1e-3), trained(1, 1e-3))


class Kept(Quiet):
    """A log that keeps every step's snapshot, and goes on from the last."""

    def restored(self):
        return self.snapshot


def test_an_interrupted_training_goes_on_without_a_second_draw(tmp_path, monkeypatch):
    monkeypatch.setattr("dpib.training._SaveTimer.due", lambda self: True)
    unbroken, noise = make(**STEPS), Counted(3)
    unbroken.train(vault(unbroken, records(), tmp_path / "a", noise=noise), Kept())

    class Dies(Kept):
        def save(self, state):
            super().save(state)
            if state["step"] == 2:
                raise KeyboardInterrupt

    log, noise = Dies(), Counted(3)
    guarded = vault(make(**STEPS), records(), tmp_path / "b", noise=noise)
    with pytest.raises(KeyboardInterrupt):
        make(**STEPS).train(guarded, log)
    assert noise.draws == 2
    log.save = lambda state: None
    resumed = make(**STEPS)
    resumed.train(guarded, log)
    assert noise.draws == 4
    assert torch.equal(weights(resumed), weights(unbroken))
    assert torch.equal(resumed.class_proportions(), unbroken.class_proportions())
    assert [event.count for event in guarded._ledger.account.events] == [4]


def test_the_kernel_of_the_recipe_is_the_published_one():
    """It is given for images in [-1, 1], where distances are twice as long."""
    config, _ = compose({"method": "DP-Kernel", "dataset": "mnist_28", "features.dimension": "40000"})
    features = build(config.recipe.features, (1, 28, 28), seeding.generator(0, "w"), torch.device("cpu"))
    x = torch.rand(5, 1, 28, 28, generator=seeding.generator(0, "x"))
    x[1], x[2] = x[0] + 0.02, x[0] + 0.1
    squared = torch.cdist((2 * x - 1).flatten(1), (2 * x - 1).flatten(1)).square()
    published = torch.stack([torch.exp(-squared / (2 * s**2)) for s in (1, 2, 4, 8, 16)]).mean(0)
    phi = features.map(x)
    assert float((phi @ phi.T - published).abs().max()) < 0.03
    assert config.recipe.train.release == "one_shot"
