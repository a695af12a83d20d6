"""The diffusion family through the stages: one pretraining for many, checkpoints, public-only synthesizers."""

import json

import numpy as np
import pytest
import torch

from benchmarks.label_agreement import agreement
from dpib import checkpoint, seeding, training
from dpib.chain import Start, run_generate, run_pretrain, run_train
from dpib.config import compose
from dpib.config.fingerprint import fingerprint
from dpib.data.synthetic import read_gen
from dpib.diffusion.public import PublicBatches
from dpib.errors import UserError
from dpib.metrics.utility import accuracy
from dpib.nn import classifiers
from dpib.pipeline import run_evaluate
from dpib.privacy.ledger import Account
from dpib.sensitive import Sensitive
from dpib.stages.generate import GEN
from dpib.upstream import continue_from
from tests.conftest import TINY_DIFFUSION

SMALL = {**TINY_DIFFUSION, "network.label_dim": "12", "pretrain.steps": "4", "public": "glyphs_28"}


def small(tiny, **changed):
    common = {k: v for k, v in tiny.items() if k.startswith(("generate", "eval"))}
    return {"method": "pdp-diffusion", **common, **SMALL, **{k.replace("__", "."): v for k, v in changed.items()}}


def key(stage, tiny, **changed):
    config, card = compose(small(tiny, **changed))
    return fingerprint(stage, config, card)


def test_one_pretraining_serves_other_methods_budgets_and_data_sets(tiny):
    pretraining = key("pretrain", tiny)
    for same in (
        {"epsilon": "2"}, {"method": "dp-ldm-sd"}, {"dataset": "mnist_28"}, {"train__lr": "0.1"},
        {"sampler__steps": "9"}, {"processes": "2"},
    ):  # fmt: skip
        assert key("pretrain", tiny, **same) == pretraining, same
    for other in ({"network__nf": "16"}, {"pretrain__lr": "0.1"}, {"pretrain__cond": "false"}, {"public": "mnist_28"}):
        assert key("pretrain", tiny, **other) != pretraining, other


def test_a_changed_training_is_another_one_and_a_changed_sampler_is_not(tiny):
    training = key("train", tiny)
    for other in ({"train__lr": "0.1"}, {"train__clip": "1.0"}, {"train__batch": "30"}, {"epsilon": "2"}):
        assert key("train", tiny, **other) != training, other
    assert key("train", tiny, sampler__steps="9", processes="2") == training
    assert key("train", tiny, train__strategy="vmap", train__physical="none", train__splits="3") == training
    assert key("audit", tiny, train__strategy="vmap") != key("audit", tiny)
    assert key("generate", tiny, sampler__steps="9") != key("generate", tiny)


def test_training_starts_from_a_run_or_from_its_file(store, tiny):
    config, card = compose(small(tiny))
    pretrained = run_pretrain(config, card, store)
    assert run_pretrain(compose(small(tiny, method="dp-ldm-sd"))[0], card, store).reused
    first = run_train(config, card, store, Start(pretrained.run_id))
    file = store.fetch(pretrained.run_id, "checkpoints/final.safetensors")
    second = run_train(config, card, store, Start(file=file))
    assert first.run_id != second.run_id
    assert first.metrics["privacy/epsilon"] == pytest.approx(1, rel=1e-3)
    ledger = Account.parse(store.fetch(second.run_id, "privacy/ledger.json").read_text())
    assert [(e.id, e.count) for e in ledger.events] == [("train/dp-sgd", 4)]
    assert ledger.events[0].rate == 20 / 1348
    with pytest.raises(UserError, match="the checkpoint's network is another one"):
        run_train(compose(small(tiny, network__label_dim="13"))[0], card, store, Start(file=file))
    with pytest.raises(UserError, match="does not exist: give -P checkpoint="):
        run_train(config, card, store, Start(file=file.with_name("none.safetensors")))


def test_a_pretraining_cut_off_goes_on_from_its_snapshot_and_equals_an_unbroken_one(store, tiny, monkeypatch):
    config, card = compose(small(tiny, reuse="false"))
    file = "checkpoints/final.safetensors"
    unbroken = checkpoint.load(store.fetch(run_pretrain(config, card, store).run_id, file))["denoiser"]
    monkeypatch.setattr(training, "SNAPSHOT_SECONDS", 0.0)
    seen, rows = [], PublicBatches.rows

    def dying(self, loss, step):
        seen.append(step)
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt
        return rows(self, loss, step)

    monkeypatch.setattr(PublicBatches, "rows", dying)
    with pytest.raises(KeyboardInterrupt):
        run_pretrain(config, card, store)
    resumed = checkpoint.load(store.fetch(run_pretrain(config, card, store).run_id, file))["denoiser"]
    assert seen[3] in (1, 2)  # snapshots take at most a twentieth of the time, so the last step may have none
    assert seen[-1] == 3
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


def test_a_start_that_saw_the_same_images_is_paid_again(store, tiny):
    config, card = compose(small(tiny))
    first = run_train(config, card, store)
    file = store.fetch(first.run_id, "checkpoints/final.safetensors")
    with pytest.raises(UserError, match=r"already spent epsilon = .* raise epsilon"):
        run_train(compose(small(tiny, epsilon="0.5"))[0], card, store, Start(file=file))
    config, _ = compose(small(tiny, epsilon="2"))
    second = run_train(config, card, store, Start(file=file))
    ledger = Account.parse(store.fetch(second.run_id, "privacy/ledger.json").read_text())
    assert [event.id for event in ledger.events] == ["train/before/dp-sgd", "train/dp-sgd"]
    assert 1.99 < ledger.spent() == second.metrics["privacy/epsilon"] <= 2
    statement = store.fetch(second.run_id, "privacy/statement.md").read_text()
    assert "train/before/dp-sgd" in statement


def test_a_public_only_synthesizer_costs_nothing_and_is_judged(store, tiny):
    config, card = compose(small(tiny))
    pretrained = run_pretrain(config, card, store)
    config, card, run = continue_from(pretrained.run_id, "pretrain", store, {"generate.images": "41"})
    generated = run_generate(config, card, store, run)
    gen = store.fetch(generated.run_id, str(GEN))
    with np.load(gen) as content:
        assert content["x"].shape == (41, 1, 28, 28)
        statement = json.loads(str(content["statement"]))
    assert statement["epsilon"] == 0
    assert statement["ledger"]["events"] == []
    judged = run_evaluate(config.model_copy(update={"note": "public"}), card, store, gen, generated.run_id)
    assert judged.metrics["privacy/epsilon_train"] == 0
    assert judged.metrics["privacy/epsilon"] == pytest.approx(1, rel=1e-3)  # the selection among classifiers
    assert f"val/{judged.run_id[:12]}/select/best" in store.fetch(judged.run_id, "privacy/statement.md").read_text()


def test_images_do_not_depend_on_how_batches_are_shared_out(store, tiny, monkeypatch):
    from dpib.distributed import World
    from dpib.stages.generate import choose_labels, draw

    class Fake:
        def generate(self, labels, generator):
            import torch

            from dpib.images import Images

            x = torch.randint(0, 256, (len(labels), 1, 28, 28), generator=generator, dtype=torch.uint8)
            return Images(x, labels)

    class Context:
        def __init__(self, world):
            self.config, self.card = compose({**small(tiny), "generate.batch": "10", "generate.images": "45"})
            self.world = world

    labels = choose_labels(Context(World()).config, 10, Fake())
    monkeypatch.setattr(World, "all_reduce_sum", lambda self, tensor: tensor)
    whole = draw(Fake(), labels, Context(World()))
    parts = [draw(Fake(), labels, Context(World(rank, 2))) for rank in (0, 1)]
    assert (parts[0] + parts[1]).equal(whole)
    assert all(part.any() for part in parts)


@pytest.mark.slow
def test_a_classifier_trained_on_real_digits_confirms_the_labels_of_synthetic_ones(store):
    # A thousand images cannot hide in so short a training and teach it anything: what is tested is not the budget.
    longer = {"epsilon": "1000", "accountant": "rdp", "train.steps": "800", "train.batch": "256"}
    config, card = compose({"method": "dpdm", "dataset": "digits_28", "generate.images": "200", **longer})
    drawn = run_generate(config, card, store, run_train(config, card, store).run_id)
    synthetic, _ = read_gen(store.fetch(drawn.run_id, GEN), card)
    real, held_out = Sensitive(config, card).baseline()
    with seeding.seeded(0, "classifier"):
        network = classifiers.build(config.eval.classifiers, 1, 10)["resnet"]
    confirmed = agreement(network, real, [synthetic, held_out], config.eval.schedule)
    found, best = (accuracy(yes) for yes in confirmed)
    assert best > 90
    assert found > 40  # chance is 10
