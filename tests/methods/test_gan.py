"""DPGAN: what of a record reaches the critic, what the generator sees, and what an interruption repeats."""

import copy

import pytest
import torch
from torch import nn

from dpib import seeding
from dpib.config import compose
from dpib.draws import Draws
from dpib.images import Images
from dpib.methods.gan import Gan, GanSettings, PairLoss
from dpib.nn.critics import Critic, CriticSettings
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.per_record import autotune
from dpib.privacy.per_record.probes import Probes
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.synthesizer import Task
from tests.quiet import Quiet

SHAPE, CLASSES, CPU = (1, 8, 8), 3, torch.device("cpu")
CLIP = 0.5


def make(seed=0, every=2, pretrain=None, **train):
    settings = GanSettings(
        network={"name": "small", "latent": 4, "width": 8, "hidden": 16},
        critic={"width": 8},
        adversary={"lr": 0.01, "batch": 12, "every": every},
        pretrain={"steps": 4, "batch": 8, "lr": 0.01, **(pretrain or {})},
        train={"steps": 5, "batch": 10, "lr": 0.01, "clip": CLIP, "strategy": "loop", **train},
    )
    return Gan(settings, Task(SHAPE, CLASSES, seed, CPU))


def records(n=40, seed=0):
    stream = seeding.generator(seed, "records")
    return Images(torch.randint(0, 256, (n, *SHAPE), generator=stream, dtype=torch.uint8), torch.arange(n) % CLASSES)


def vault(gan, images, folder, sigma=1.0, noise_seed=1):
    folder.mkdir(exist_ok=True)
    account = Account(dataset="toy", relation="zero_out", epsilon=1e20, delta=1e-3, scopes={"train": len(images)})
    plan = tuple(charge.at(sigma) for charge in gan.plan(len(images)))
    return Vault(images, "train", Ledger.open(folder / "l.json", account), plan, NoiseSource(noise_seed), folder)


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("strategy", ["grouped", "joined", "vmap"])
@pytest.mark.parametrize("shape", [SHAPE, (3, 32, 32)])
def test_gradients_of_pairs_equal_the_loops(strategy, shape):
    gan = Gan(make().settings, Task(shape, CLASSES, 0, CPU))
    rows = Probes(gan.loss, shape, CLASSES, CPU).random(4)
    for clip in (0.01, 1e9):
        expected, found = (autotune.load(n)(gan.critic, gan.loss, rows, clip) for n in ("loop", strategy))
        apart = torch.cat([(a - b).flatten() for a, b in zip(expected, found, strict=True)]).norm()
        assert apart < 1e-4 * torch.cat([a.flatten() for a in expected]).norm()


@pytest.mark.parametrize("value", [0, 255, "random"])
@pytest.mark.parametrize("label", [0, CLASSES - 1])
def test_a_record_with_the_image_that_it_brings_moves_a_step_by_at_most_the_clip(tmp_path, value, label):
    images = records(6)
    images.x[-1] = torch.randint(0, 256, SHAPE, dtype=torch.uint8) if value == "random" else value
    images.y[-1] = label

    def total(images, name):
        gan = make(batch=len(images), steps=1)  # everybody takes part
        spec = gan.settings.train.spec(gan.task, 0)
        gradients = vault(gan, images, tmp_path / name, 1e-9).gradients("dp-sgd", gan.loss, gan.critic, spec)
        return torch.cat([part.flatten() for part in next(gradients).of]) * len(images)

    moved = float((total(images, "with") - total(images.take(slice(0, 5)), "less")).norm())
    assert moved <= CLIP * (1 + 1e-5)
    assert moved == pytest.approx(CLIP, rel=1e-3)  # pairs are clipped: were halves clipped apart, it would be more


def test_a_generated_image_is_a_function_of_the_draws_of_its_record_alone():
    gan, images = make(), records()
    index = torch.arange(len(images))
    together = gan.loss.rows(images.x, images.y, Draws(3, index))
    gan.generator.train()
    for i in (0, 7, 39):
        alone = gan.loss.rows(images.x[i : i + 1], images.y[i : i + 1], Draws(3, index[i : i + 1]))
        for whole, part in zip(together, alone, strict=True):
            assert torch.allclose(whole[i : i + 1].float(), part.float(), atol=1e-6)
    labels = together[1][:, 0, 1]
    assert labels.min() == 0
    assert labels.max() == CLASSES - 1
    assert torch.equal(together[1][:, 0, 0], images.y)


def test_the_hinge_loss_of_a_pair():
    class Scores(nn.Module):
        def forward(self, x, y):
            return x.flatten(1).mean(1) + y

    images = torch.tensor([0.5, -0.25])[None, :, None, None, None].expand(1, 2, 1, 2, 2)
    (value,) = PairLoss(nn.Identity(), 1, 3).per_row(Scores(), images, torch.tensor([[0, 1]]))
    assert float(value) == pytest.approx((1 - 0.5) + (1 + 0.75))


def test_every_step_is_charged_and_the_generator_moves_after_every_few(tmp_path, monkeypatch):
    gan, log, moved = make(), Quiet(), []
    original = gan._move
    monkeypatch.setattr(gan, "_move", lambda *how: moved.append(how[-1]) or original(*how))
    before = flat(gan.generator)
    gan.train(vault(gan, records(), tmp_path / "v"), log)
    assert moved == [2, 4, 5]
    assert not torch.equal(before, flat(gan.generator))
    ledger = Account.parse((tmp_path / "v" / "l.json").read_text())
    assert [(e.id, e.count, e.rate) for e in ledger.events] == [("train/dp-sgd", 5, 0.25)]
    assert log.curves == []


def test_a_training_cut_off_anywhere_goes_on_as_if_it_had_not_been(monkeypatch):
    class Keeps(Quiet):
        """Keeps the snapshot after `at` steps, and begins with the one it is given."""

        def __init__(self, at=None, begun=None):
            super().__init__()
            self.at, self.begun, self.kept = at, begun, None

        def save(self, state):
            if state["step"] == self.at:
                self.kept = copy.deepcopy(state)

        def restored(self):
            return self.begun

    def learnt(log, stops=None):
        gan = make(pretrain={"steps": 9})
        original = gan._alternating

        def stopping(*arguments):
            for number, gradients in enumerate(original(*arguments)):
                if number == stops:
                    raise KeyboardInterrupt
                yield gradients

        monkeypatch.setattr(gan, "_alternating", stopping)
        gan.pretrain(records(), log)
        return gan.state_dict()

    monkeypatch.setattr("dpib.training._SaveTimer.due", lambda self: True)
    whole = learnt(Quiet())
    for at in (4, 5, 9):
        first = Keeps(at)
        if at < 9:
            with pytest.raises(KeyboardInterrupt):
                learnt(first, at)
        else:
            learnt(first)
        resumed = learnt(Keeps(begun=first.kept))
        for name, network in whole.items():
            for key, value in network.items():
                assert torch.allclose(value, resumed[name][key], atol=1e-5), (at, name, key)


def test_the_average_draws_with_batch_statistics_of_its_own(tmp_path):
    gan = make()
    gan.train(vault(gan, records(), tmp_path / "v"), Quiet())
    network = gan.average.network
    labels = torch.arange(300) % CLASSES
    noise = torch.randn(300, gan.generator.latent, generator=seeding.generator(0, "z"))
    hidden = network.body[0](torch.cat([noise[:, : network.smooth], nn.functional.one_hot(labels, CLASSES)], 1))
    norm = network.body[1]
    assert torch.allclose(hidden.mean(0), norm.running_mean, atol=0.1)
    live = gan.generator.body[1].running_mean
    assert float((hidden.mean(0) - norm.running_mean).norm()) < float((hidden.mean(0) - live).norm())
    one = gan.generate(labels, seeding.generator(0, "g")).x
    other = make(seed=1)
    other.load_state_dict(gan.state_dict())
    assert torch.equal(other.generate(labels, seeding.generator(0, "g")).x, one)


def test_boundless_noise_leaves_nothing_of_the_records(tmp_path):
    def learnt(images, sigma, name):
        gan = make()
        start = flat(gan.critic)
        gan.train(vault(gan, images, tmp_path / name, sigma), Quiet())
        return flat(gan.critic) - start

    black = Images(torch.zeros(40, *SHAPE, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))

    def dependence(sigma):
        # The same noise and the same sample: what still differs came from the records.
        a, b = (learnt(images, sigma, f"{sigma}-{i}") for i, images in enumerate((records(), black)))
        return float((a - b).norm() / a.norm())

    assert dependence(1e5) < 0.02
    assert dependence(0.001) > 0.2


def test_unconditional_pretraining_gives_labels_by_chance(monkeypatch):
    seen = []
    original = PairLoss.rows
    monkeypatch.setattr(PairLoss, "rows", lambda self, x, y, draws: seen.append(y) or original(self, x, y, draws))
    ones = Images(records().x, torch.full((40,), 4))
    make().pretrain(ones, Quiet())
    assert all((y == 1).all() for y in seen)  # five public classes folded onto three
    seen.clear()
    make(pretrain={"cond": False}).pretrain(ones, Quiet())
    assert len(torch.cat(seen).unique()) == CLASSES


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3), (64, 3)])
def test_the_critic_of_every_size(side, channels):
    critic = Critic((channels, side, side), 2, CriticSettings(width=8))
    scores = critic(torch.zeros(3, channels, side, side), torch.tensor([0, 1, 1]))
    assert scores.shape == (3,)


def test_the_published_sizes_are_those_of_the_benchmark():
    config, card = compose({"method": "dpgan", "profile": "paper", "dataset": "mnist_28"})
    gan = Gan(config.recipe, Task(card.shape, 10, 0, CPU))
    # 1.18 M and 6.65 M parameters are published.
    assert sum(p.numel() for p in gan.critic.parameters()) == pytest.approx(1.18e6, rel=0.02)
    assert sum(p.numel() for p in gan.generator.parameters()) == pytest.approx(6.65e6, rel=0.02)
    for dataset, width in (("fmnist_28", 96), ("cifar10_32", 60)):
        assert compose({"method": "dpgan", "profile": "paper", "dataset": dataset})[0].recipe.network.width == width
