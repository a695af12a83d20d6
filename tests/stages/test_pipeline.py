"""A whole run: the names of the contract, what it spends, and what it must not say."""

import mlflow
import numpy as np
import pytest
import torch

from dpib.chain import run_generate, run_pretrain, run_train
from dpib.config import compose
from dpib.errors import UserError
from dpib.pipeline import run_main, run_prepare
from dpib.privacy.ledger import Account
from dpib.stages.generate import GEN
from dpib.tracking import Store
from tests.stages.tracked import artifacts, children


def test_a_main_run_keeps_every_name_of_the_contract(go, store):
    _, run = go(note="first")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "dp-merf-digits_28-eps10-s0-first"
    assert mlflow.get_experiment(run.info.experiment_id).name == "dpib-digits_28"
    tags = run.data.tags
    assert (tags["dpib.stage"], tags["dpib.method"], tags["dpib.dataset"]) == ("main", "dp-merf", "digits_28")
    assert tags["dpib.private"] == "true"
    assert len(tags["dpib.fingerprint"]) == 64
    assert tags["mlflow.note.content"] == "first"
    assert {
        "privacy/epsilon", "privacy/delta", "privacy/epsilon_train", "privacy/epsilon_selection",
        "utility/accuracy_best", "utility/accuracy_mean", "utility/accuracy_std",
        "utility/resnet/accuracy", "utility/wrn/accuracy", "utility/n_test",
        "fidelity_random/fid", "fidelity_random/kid", "fidelity_random/precision", "fidelity_random/recall",
        "fidelity_random/n_synthetic", "fidelity_random/n_real",
        "time/train", "time/generate", "time/evaluate", "time/main",
    } <= set(run.data.metrics)  # fmt: skip
    assert not any(name.startswith("oracle") for name in run.data.metrics)
    assert {k for k in run.data.params if not k.startswith("cfg.")} == set()
    assert run.data.params["cfg.train.lr"] == "0.01"
    assert artifacts(run.info.run_id) >= {
        "config.yaml", "gen/sample.png", "privacy/ledger.json", "privacy/statement.md", "report.json",
    }  # fmt: skip
    kids = children(run)
    inputs = {name: kid.data.tags["dpib.inputs"] for name, kid in kids.items()}
    ids = {name: kid.info.run_id for name, kid in kids.items()}
    assert inputs == {"train": "none", "generate": ids["train"], "evaluate": ids["generate"]}
    assert {name: kid.info.run_name for name, kid in kids.items()} == {s: s for s in ("train", "generate", "evaluate")}
    assert {
        "checkpoints/final.safetensors", "checkpoints/snapshot.safetensors", "config.yaml", "logs/stage.log",
        "privacy/ledger.json", "privacy/statement.md",
    } <= artifacts(kids["train"].info.run_id)  # fmt: skip
    assert {"gen/gen.npz", "gen/sample.png"} <= artifacts(kids["generate"].info.run_id)
    assert any(path.startswith("images/train-samples") for path in artifacts(kids["train"].info.run_id))
    names = {i.dataset.name for i in run.inputs.dataset_inputs}
    assert names == {"digits_28"}
    assert len(mlflow.MlflowClient().get_metric_history(kids["train"].info.run_id, "train/loss")) > 3


def test_a_gpu_that_is_not_there_is_refused(store, tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, card = compose({**tiny, "device": "cuda"})
    with pytest.raises(UserError, match="torch sees no GPU here: use device=auto"):
        run_train(config, card, store)


def test_the_total_stays_within_what_was_asked_for(go):
    _, run = go(epsilon=2)
    metrics = run.data.metrics
    assert 1.99 < metrics["privacy/epsilon"] <= 2 * (1 + 1e-9)
    assert 1.99 < metrics["privacy/epsilon_selection"] <= 2 * (1 + 1e-9)
    ledger = Account.parse(Store().fetch(run.info.run_id, "privacy/ledger.json").read_text())
    # Two classifiers here: two selections of their own and the joint one, a third of epsilon each.
    judged = children(run)["evaluate"].info.run_id[:12]
    assert {e.id for e in ledger.events} == {
        "train/embedding", *(f"val/{judged}/select/{name}" for name in ("resnet", "wrn", "best")),
    }  # fmt: skip
    assert sum(e.epsilon for e in ledger.events if e.scope == "val") == pytest.approx(2)
    assert {y.name for y in ledger.yardstick} == {"utility", "fidelity"}
    statement = Store().fetch(run.info.run_id, "privacy/statement.md").read_text()
    assert "(2, 0.000103)-differentially private" in statement
    assert f"val/{judged}/select/best" in statement


def test_nothing_un_noised_about_validation_images_reaches_the_store(go, store):
    _, run = go()
    for run_id in (run.info.run_id, *(kid.info.run_id for kid in children(run).values())):
        data = mlflow.get_run(run_id).data
        assert not any("oracle" in name or "val_" in name for name in data.metrics)
        assert not any("counts" in path for path in artifacts(run_id))
    evaluate = children(run)["evaluate"].info.run_id
    assert not any("snapshot" in path or "counts" in path for path in artifacts(evaluate))
    history = {k for k in mlflow.get_run(evaluate).data.metrics if "test" in k}
    assert history == {"utility/n_test"}


def test_a_fixed_noise_seed_makes_the_run_not_private(go):
    _, run = go(unsafe_noise_seed=1)
    assert run.data.tags["dpib.private"] == "false"
    assert not any(name.startswith("privacy/epsilon") for name in run.data.metrics)
    assert "Not private" in Store().fetch(run.info.run_id, "privacy/statement.md").read_text()


def test_a_budget_that_is_too_small_for_the_given_noise_is_refused(go):
    with pytest.raises(UserError, match=r"over the budget of 0\.5"):
        go(epsilon=0.5, train__noise_multiplier=0.5)


def test_labels_follow_the_released_proportions(store, tiny):
    config, card = compose({**tiny, "generate.labels": "estimated", "generate.images": "500"})
    trained = run_train(config, card, store)
    generated = run_generate(config, card, store, trained.run_id)
    with np.load(store.fetch(generated.run_id, str(GEN))) as content:
        counts = np.bincount(content["y"], minlength=10)
    assert counts.sum() == 500
    assert counts.min() > 20


def test_proportions_that_no_release_tells_are_refused_before_the_first_stage(store, pro):
    with pytest.raises(UserError, match=r"releases no class proportions: use generate\.labels=balanced"):
        run_main(*pro(generate__labels="estimated"), store)
    with pytest.raises(UserError, match="no runs at"):
        store.newest_experiment()


def test_public_pretraining_is_a_stage_of_its_own_and_costs_nothing(go, store):
    _, run = go(public="glyphs_28")
    kids = children(run)
    assert set(kids) == {"pretrain", "train", "generate", "evaluate"}
    assert not any(k.startswith("privacy") for k in kids["pretrain"].data.metrics)
    assert [i.dataset.name for i in kids["pretrain"].inputs.dataset_inputs] == ["glyphs_28"]
    assert kids["train"].data.tags["dpib.inputs"] == kids["pretrain"].info.run_id
    assert run.data.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)


def test_pretraining_wants_public_data(store, tiny):
    config, card = compose(tiny)
    with pytest.raises(UserError, match="nothing to pretrain on"):
        run_pretrain(config, card, store)


def test_a_preparation_is_always_done_anew(store, tiny, tmp_path):
    config, card = compose({**tiny, "data_root": str(tmp_path / "data")})
    first, second = (run_prepare(config, card, store, None, True, replace=True) for _ in range(2))
    assert first.metrics["data/train"] == 1498
    assert not second.reused
    assert second.run_id != first.run_id
