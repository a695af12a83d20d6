"""One synthesizer for the family: its plan, what it trains, what it saves, and what noise leaves of it."""

import math

import pytest
import torch

from dpib import seeding
from dpib.config import compose
from dpib.diffusion.loss import DenoisingLoss, LossSettings
from dpib.diffusion.public import PublicBatches
from dpib.diffusion.settings import DiffusionSettings, LearnSettings
from dpib.distributed import World
from dpib.errors import UserError
from dpib.images import Images
from dpib.methods.diffusion import Diffusion, tune
from dpib.nn.denoiser import Denoiser, DenoiserSettings
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.per_record import autotune
from dpib.privacy.per_record.probes import Probes
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.synthesizer import Task
from tests.quiet import Quiet

NETWORK = {"nf": 8, "ch_mult": [1, 2], "attn_resolutions": [4], "blocks": 1}
TASK = Task((1, 8, 8), 3, 0, torch.device("cpu"))


def make(seed=0, network=None, pretrain=None, **train):
    settings = DiffusionSettings(
        network={**NETWORK, **(network or {})},
        loss={},
        lessons=[{"kind": "public"}],
        pretrain={"steps": 6, "batch": 8, "lr": 0.01, **(pretrain or {})},
        train={"steps": 5, "batch": 10, "lr": 0.01, "clip": 0.01, "multiplicity": 2, "strategy": "loop", **train},
        sampler={"name": "ddim", "steps": 3},
    )
    return Diffusion(settings, Task(TASK.shape, TASK.classes, seed, TASK.device))


def records(n=40, seed=0):
    stream = seeding.generator(seed, "records")
    return Images(torch.randint(0, 256, (n, 1, 8, 8), generator=stream, dtype=torch.uint8), torch.arange(n) % 3)


def vault(synthesizer, images, folder, sigma=1.0, noise_seed=1):
    folder.mkdir(exist_ok=True)
    account = Account(dataset="toy", relation="zero_out", epsilon=1e9, delta=1e-3, scopes={"train": len(images)})
    plan = tuple(charge.at(sigma) for charge in synthesizer.plan(len(images)))
    return Vault(images, "train", Ledger.open(folder / "l.json", account), plan, NoiseSource(noise_seed), folder)


def weights(synthesizer):
    return torch.cat([p.flatten() for p in synthesizer.average.network.parameters()])


def test_the_three_methods_are_one_synthesizer_with_other_recipes():
    recipes = {m: compose({"method": m, "profile": "paper"})[0] for m in ("DPDM", "PDP-Diffusion", "DP-LDM-SD")}
    assert {config.synthesizer for config in recipes.values()} == {"diffusion"}
    dpdm, pdp, sd = (config.recipe for config in recipes.values())
    assert (dpdm.network.label_dim, pdp.network.label_dim, sd.network.label_dim) == (None, 1000, 1000)
    assert (dpdm.train.tune, pdp.train.tune) == (None, None)
    assert sd.train.model_copy(update={"tune": None}) == pdp.train == dpdm.train
    assert (dpdm.train.batch, dpdm.train.epochs, dpdm.train.multiplicity, dpdm.train.clip) == (4096, 150, 32, 0.001)


def test_published_settings_differ_by_data_set_and_epsilon():
    at_ten, at_one = (
        compose({"method": "dpdm", "profile": "paper", "dataset": "mnist_28", "epsilon": e})[0] for e in ("10", "1")
    )
    assert at_ten.recipe.network.ch_mult == [2, 2]
    assert (at_ten.recipe.sampler.name, at_ten.recipe.sampler.steps) == ("edm", 1000)
    assert (at_ten.recipe.sampler.churn_min, at_one.recipe.sampler.churn_min) == (0.025, 0.1)
    cifar = compose({"method": "dpdm", "profile": "paper", "dataset": "cifar10_32"})[0]
    assert (cifar.recipe.sampler.name, cifar.recipe.sampler.steps) == ("ddim", 250)


def test_the_plan_has_the_exact_rate_and_whole_epochs():
    (charge,) = make(steps=None, epochs=3).plan(45)
    assert charge.rate == 10 / 45
    assert charge.count == 3 * math.ceil(45 / 10)
    assert charge.sigma is None
    assert make(cap=12).plan(45)[0].cap == 12
    with pytest.raises(UserError, match=r"train\.batch=10 exceeds the 9 training images"):
        make().plan(9)


def test_steps_and_epochs_exclude_each_other():
    for both in ({"steps": 1, "epochs": 1}, {"steps": None, "epochs": None}):
        with pytest.raises(ValueError, match="one of steps and epochs"):
            make(**both)


@pytest.mark.parametrize("strategy", [name for name in autotune.STRATEGIES if name != "loop"])
@pytest.mark.parametrize("patch", [1, 2])
def test_per_record_gradients_of_this_network_equal_the_loops(strategy, patch):
    torch.manual_seed(0)
    settings = DenoiserSettings(**{**NETWORK, "patch": patch, "attn_resolutions": [8, 4]})
    model = Denoiser(settings, (1, 8, 8), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    loss = DenoisingLoss(LossSettings(label_dropout=0.5), 3, multiplicity=1 if strategy == "hooks" else 3)
    rows = Probes(loss, (1, 8, 8), 3, torch.device("cpu")).random(4)
    for clip in (0.01, 1e9):
        expected = autotune.load("loop")(model, loss, rows, clip)
        found = autotune.load(strategy)(model, loss, rows, clip)
        apart = torch.cat([(a - b).flatten() for a, b in zip(expected, found, strict=True)]).norm()
        assert apart < 1e-4 * torch.cat([a.flatten() for a in expected]).norm()


def test_training_takes_every_step_that_was_charged_and_shows_the_average(tmp_path):
    synthesizer, log = make(), Quiet()
    synthesizer.train(vault(synthesizer, records(), tmp_path / "v"), log)
    assert log.snapshot["step"] == 5
    assert log.curves == []
    assert [step for _, step, _ in log.grids] == [1, 2, 3, 4, 5]
    assert log.grids[0][2].y.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    ledger = Account.parse((tmp_path / "v" / "l.json").read_text())
    assert [(e.id, e.count, e.rate) for e in ledger.events] == [("train/dp-sgd", 5, 0.25)]


def test_the_average_is_what_generates_and_what_is_saved(tmp_path):
    synthesizer = make()
    synthesizer.pretrain(records(), Quiet())
    labels = torch.tensor([0, 1, 2, 1])
    images = synthesizer.generate(labels, seeding.generator(0, "g"))
    assert images.x.shape == (4, 1, 8, 8)
    assert torch.equal(images.y, labels)
    with torch.no_grad():
        for parameter in synthesizer.model.parameters():
            parameter.zero_()
    assert torch.equal(synthesizer.generate(labels, seeding.generator(0, "g")).x, images.x)
    other = make(seed=1)
    other.load_state_dict(synthesizer.state_dict())
    assert torch.equal(other.generate(labels, seeding.generator(0, "g")).x, images.x)
    assert torch.equal(weights(other), torch.cat([p.flatten() for p in other.model.parameters()]))


def test_the_average_lags_behind_the_model_while_it_trains(tmp_path):
    synthesizer, log = make(pretrain={"ema": 0.99}), Quiet()
    synthesizer.pretrain(records(), log)
    snapshot = log.phases["public"].snapshot
    live, average = snapshot["model"], snapshot["average"]["network"]
    assert snapshot["average"]["updates"] == 6
    assert any(not torch.equal(live[name], average[name]) for name in live)
    assert all(torch.equal(average[name], value) for name, value in synthesizer.state_dict()["denoiser"].items())


def test_one_null_label_serves_dropout_unconditional_pretraining_and_guidance(monkeypatch):
    synthesizer = make(network={"label_dim": 7})
    assert synthesizer.model.null == 7
    batches = PublicBatches(records(), LearnSettings(steps=1, batch=8, lr=1.0, cond=False), 7, 0, "public", World())
    assert (batches.rows(DenoisingLoss(LossSettings(), 7), 0)[3] == 7).all()
    seen = []
    monkeypatch.setattr(
        "dpib.methods.diffusion.sample",
        lambda network, labels, shape, settings, null, generator: seen.append(null) or torch.zeros(len(labels), *shape),
    )
    synthesizer.generate(torch.tensor([0]), seeding.generator(0, "g"))
    assert seen == [7]


def test_public_classes_need_an_embedding_unless_they_are_left_out():
    public = Images(records().x, torch.arange(40) % 5)
    with pytest.raises(UserError, match=r"5 classes, the network 3: set network\.label_dim=5"):
        make().pretrain(public, Quiet())
    make(pretrain={"cond": False}).pretrain(public, Quiet())
    make(network={"label_dim": 5}).pretrain(public, Quiet())
    with pytest.raises(UserError, match="public: 4 images do not fill a batch of 8"):
        make().pretrain(records(4), Quiet())


def test_batches_of_public_images_repeat_from_the_step_and_are_shared_out():
    how = LearnSettings(steps=1, batch=8, lr=1.0, flip=True)
    loss = DenoisingLoss(LossSettings(), 3)
    whole = PublicBatches(records(), how, 3, 0, "public", World())
    for step in (0, 4, 5, 1):
        parts = [PublicBatches(records(), how, 3, 0, "public", World(rank, 2)).rows(loss, step) for rank in (0, 1)]
        for row, first, second in zip(whole.rows(loss, step), *parts, strict=True):
            assert torch.equal(row[0::2], first)
            assert torch.equal(row[1::2], second)
    epoch = torch.cat([whole._epochs.index(step) for step in range(5)])
    assert epoch.unique().tolist() == list(range(40))


def test_only_what_the_recipe_names_is_tuned(tmp_path):
    patterns = compose({"method": "dp-ldm-sd"})[0].recipe.train.tune
    pretrained = make()
    pretrained.pretrain(records(), Quiet())
    synthesizer = make(tune=patterns)
    synthesizer.load_state_dict(pretrained.state_dict())
    synthesizer.train(vault(synthesizer, records(), tmp_path / "v"), Quiet())
    before, after = (s.state_dict()["denoiser"] for s in (pretrained, synthesizer))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"network.class_embedding.weight", "network.conv_in.weight"} <= moved
    assert any(name.endswith("to_q.weight") for name in moved)
    assert not any("resnets" in name or "norm" in name or "conv_out" in name for name in moved)


def test_tuning_a_part_of_nothing_or_an_unknown_part_is_refused(tmp_path):
    synthesizer = make(tune=["network.conv_in.*"])
    with pytest.raises(UserError, match="there was none"):
        synthesizer.train(vault(synthesizer, records(), tmp_path / "v"), Quiet())
    with pytest.raises(UserError, match=r"'network\.conv_inn\.\*' matches no parameter"):
        tune(synthesizer.model, ["network.conv_inn.*"])


def test_a_checkpoint_of_another_network_is_refused_in_one_line():
    state = make(network={"label_dim": 7}).state_dict()
    with pytest.raises(UserError, match=r"class_embedding.weight is \[8, 32\], here \[4, 32\]"):
        make().load_state_dict(state)
    with pytest.raises(UserError, match="another one"):
        make().load_state_dict({"generator": {}})


def test_boundless_noise_leaves_only_what_public_data_gave(tmp_path):
    def trained(images, sigma, name):
        synthesizer = make(multiplicity=1)
        start = weights(synthesizer).clone()
        synthesizer.train(vault(synthesizer, images, tmp_path / name, sigma), Quiet())
        return weights(synthesizer) - start

    black = Images(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))

    def dependence(sigma):
        # The same noise and the same sample: what still differs came from the records.
        a, b = (trained(images, sigma, f"{sigma}-{i}") for i, images in enumerate((records(), black)))
        return float((a - b).norm() / a.norm())

    assert dependence(1000.0) < 0.01
    assert dependence(0.001) > 0.25


def test_fewer_images_than_a_batch_are_learnt_whole_where_they_were_paid_for(tmp_path):
    settings = make().settings.model_dump() | {
        "lessons": [{"kind": "central", "samples": 2, "batch": 20, "noise_multiplier": 1.0, "fit": {"batch": 8}}]
    }
    synthesizer, log = Diffusion(DiffusionSettings.model_validate(settings), TASK), Quiet()
    synthesizer.query(vault(synthesizer, records(), tmp_path / "v"), log)
    synthesizer.pretrain(None, log)
    assert log.phases["central"].snapshot["step"] == 6
    assert log.told[-1] == "central: 6 images do not fill a batch of 8: all of them are in each"


def test_a_lesson_of_a_kind_that_stands_twice_has_a_name_of_its_own():
    lesson = {"kind": "central", "samples": 2, "batch": 20, "noise_multiplier": 1.0}
    settings = make().settings.model_dump() | {"lessons": [lesson, lesson, {"kind": "public"}]}
    synthesizer = Diffusion(DiffusionSettings.model_validate(settings), TASK)
    assert list(synthesizer.lessons) == ["central", "central-2", "public"]
    assert [charge.name for charge in synthesizer.plan(40)] == ["central", "central-2", "dp-sgd"]
    assert [charge.stage for charge in synthesizer.plan(40)] == ["query", "query", "train"]
