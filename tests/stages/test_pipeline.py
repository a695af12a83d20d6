"""The stages through the tracking store: contract names, reuse, resumption, modes, anybody's files."""

import json

import mlflow
import numpy as np
import pytest
import torch

from dpib import checkpoint
from dpib.config import compose
from dpib.errors import UserError
from dpib.methods.kernel import MeanEmbedding
from dpib.pipeline import (
    continue_from,
    file_digest,
    run_baseline,
    run_evaluate,
    run_generate,
    run_main,
    run_pretrain,
    run_train,
)
from dpib.privacy.ledger import Account
from dpib.stages.generate import GEN
from dpib.tracking import Store


@pytest.fixture
def store(tracking_uri):
    return Store(tracking_uri)


@pytest.fixture
def go(store, tiny):
    """Return a function that runs `main` with overrides and returns (result, the tracked run)."""

    def run(**overrides):
        config, card = compose({**tiny, **{k.replace("__", "."): str(v) for k, v in overrides.items()}})
        result = run_main(config, card, store)
        return result, mlflow.get_run(result.run_id)

    return run


def children(run):
    found = mlflow.search_runs(
        [run.info.experiment_id],
        filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'",
        output_format="list",
    )
    return {r.data.tags["dpib.stage"]: r for r in found}


def artifacts(run_id, folder=""):
    client, found = mlflow.MlflowClient(), set()
    for item in client.list_artifacts(run_id, folder):
        found |= artifacts(run_id, item.path) if item.is_dir else {item.path}
    return found


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


def test_the_total_stays_within_what_was_asked_for(go):
    _, run = go(epsilon=2)
    metrics = run.data.metrics
    assert 1.99 < metrics["privacy/epsilon"] <= 2 * (1 + 1e-9)
    assert 1.99 < metrics["privacy/epsilon_selection"] <= 2 * (1 + 1e-9)
    ledger = Account.parse(Store().fetch(run.info.run_id, "privacy/ledger.json").read_text())
    # Two classifiers here: two selections of their own and the joint one, a third of epsilon each.
    assert {e.id for e in ledger.events} == {
        "train/embedding", "val/select/resnet", "val/select/wrn", "val/select/best",
    }  # fmt: skip
    assert sum(e.epsilon for e in ledger.events if e.scope == "val") == pytest.approx(2)
    assert {y.name for y in ledger.yardstick} == {"utility", "fidelity"}
    statement = Store().fetch(run.info.run_id, "privacy/statement.md").read_text()
    assert "(2, 0.000103)-differentially private" in statement
    assert "val/select/best" in statement


def test_nothing_un_noised_about_validation_images_reaches_the_store(go, store):
    _, run = go()
    for run_id in (run.info.run_id, *(kid.info.run_id for kid in children(run).values())):
        data = mlflow.get_run(run_id).data
        assert not any("oracle" in name or "val_" in name for name in data.metrics)
        assert not any("counts" in path or "snapshot" in path for path in artifacts(run_id) if "evaluate" in path)
    evaluate = children(run)["evaluate"].info.run_id
    assert not any("snapshot" in path or "counts" in path for path in artifacts(evaluate))
    history = {k for k in mlflow.get_run(evaluate).data.metrics if "test" in k}
    assert history == {"utility/n_test"}


def test_finished_stages_are_reused_and_reuse_can_be_refused(go):
    first, _ = go()
    again, _ = go()
    assert again.reused
    assert again.run_id == first.run_id
    evaluated, run = go(eval__schedule__lr=0.01)
    assert not evaluated.reused
    assert set(children(run)) == {"evaluate"}
    assert run.data.metrics["time/train"] == first.metrics["time/train"]
    forced, run = go(reuse="false")
    assert forced.run_id != first.run_id
    assert set(children(run)) == {"train", "generate", "evaluate"}


def test_changed_data_under_the_same_name_are_noticed(go, digits_root, tmp_path, monkeypatch):
    first, _ = go()
    with np.load(digits_root / "digits_28" / "train.npz") as content:
        arrays = dict(content)
    arrays["images"][0] = 255 - arrays["images"][0]
    (tmp_path / "other" / "digits_28").mkdir(parents=True)
    np.savez(tmp_path / "other" / "digits_28" / "train.npz", **arrays)
    (tmp_path / "other" / "digits_28" / "test.npz").write_bytes((digits_root / "digits_28" / "test.npz").read_bytes())
    monkeypatch.setenv("DPIB_DATA", str(tmp_path / "other"))
    again, _ = go()
    assert again.run_id != first.run_id


def test_training_repeats_from_its_seed_but_for_the_noise(go, store, tiny):
    def weights(**overrides):
        config, card = compose({**tiny, "reuse": "false", **overrides})
        run = run_train(config, card, store)
        return checkpoint.load(store.fetch(run.run_id, "checkpoints/final.safetensors"))["generator"]

    a, b = weights(unsafe_noise_seed="3"), weights(unsafe_noise_seed="3")
    c, d = weights(), weights()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(c[k], d[k]) for k in c)


def test_a_fixed_noise_seed_makes_the_run_not_private(go):
    _, run = go(unsafe_noise_seed=1)
    assert run.data.tags["dpib.private"] == "false"
    assert not any(name.startswith("privacy/epsilon") for name in run.data.metrics)
    assert "Not private" in Store().fetch(run.info.run_id, "privacy/statement.md").read_text()


def test_an_interrupted_training_releases_once_and_ends_like_an_unbroken_one(go, store, tiny, monkeypatch):
    config, card = compose({**tiny, "unsafe_noise_seed": "5"})
    unbroken = run_train(config.model_copy(update={"note": "unbroken"}), card, store)
    reference = checkpoint.load(store.fetch(unbroken.run_id, "checkpoints/final.safetensors"))["generator"]

    import dpib.training as training

    monkeypatch.setattr(training, "SNAPSHOT_SECONDS", 0.0)
    stopped = {"at": 7}
    original = training.exact

    def failing(loss, model):
        for step, gradients in enumerate(original(loss, model)):
            if step == stopped["at"]:
                raise RuntimeError("the process dies")
            yield gradients

    monkeypatch.setattr("dpib.methods.kernel.exact", failing)
    fresh = config.model_copy(update={"reuse": False})
    with pytest.raises(RuntimeError, match="dies"):
        run_train(fresh, card, store)
    (failed,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="attributes.status = 'FAILED'", output_format="list"
    )
    assert failed.data.tags["dpib.error"] == "the process dies"
    stopped["at"] = 10**9
    # From here on the vault must not draw again: the release is on disk.
    monkeypatch.setattr("dpib.privacy.rng.NoiseSource.normal", None)
    resumed = run_train(fresh, card, store)
    assert resumed.run_id == failed.info.run_id
    assert mlflow.get_run(resumed.run_id).info.status == "FINISHED"
    found = checkpoint.load(store.fetch(resumed.run_id, "checkpoints/final.safetensors"))["generator"]
    assert all(torch.equal(found[k], reference[k]) for k in reference)
    ledgers = [Account.parse(store.fetch(r.run_id, "privacy/ledger.json").read_text()) for r in (unbroken, resumed)]
    assert ledgers[0] == ledgers[1]


def test_resume_false_starts_afresh_and_closes_the_old_run(store, tiny, monkeypatch):
    config, card = compose(tiny)
    monkeypatch.setattr(MeanEmbedding, "train", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_train(config, card, store)
    monkeypatch.undo()
    mlflow.set_tracking_uri(store.uri)
    (old,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert old.info.status == "KILLED"


def test_stages_alone_chain_by_run_ids(store, tiny, tmp_path):
    config, card = compose(tiny)
    trained = run_train(config, card, store)
    config, card, run = continue_from(trained.run_id, "train", store, {"generate.images": "37"})
    generated = run_generate(config, card, store, run)
    with np.load(store.fetch(generated.run_id, str(GEN))) as content:
        assert content["x"].shape == (37, 1, 28, 28)
        assert content["x"].dtype == np.uint8
        assert content["y"].dtype == np.int64
        statement = json.loads(str(content["statement"]))
    assert statement["epsilon"] == pytest.approx(10, rel=1e-3)
    config, card, run = continue_from(generated.run_id, "generate", store, {"eval.mode": "syn"})
    judged = run_evaluate(config, card, store, store.fetch(run, str(GEN)), run)
    assert "privacy/epsilon_selection" not in judged.metrics
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize(
    ("stage", "overrides", "says"),
    [
        ("train", {"train.lr": "0.5"}, "train.lr belongs to the train stage, which run"),
        ("train", {"epsilon": "1"}, "epsilon belongs to the train stage"),
        ("generate", {}, "is a train run, a generate run is needed"),
    ],
)
def test_an_override_that_comes_too_late_is_refused(store, tiny, stage, overrides, says):
    config, card = compose(tiny)
    trained = run_train(config, card, store)
    with pytest.raises(UserError, match=says):
        continue_from(trained.run_id, stage, store, overrides)


def test_an_unknown_run_is_refused(store):
    with pytest.raises(UserError, match="no run 'abc'"):
        continue_from("abc", "train", store, {})


def write_gen(path, n=120, **extra):
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.random((n, 28, 28, 1), dtype=np.float32), y=np.arange(n) % 10, **extra)
    return path


def test_anybodys_file_is_judged_without_an_epsilon_of_its_own(store, tiny, tmp_path):
    config, card = compose(tiny)
    gen = write_gen(tmp_path / "gen.npz")
    result = run_evaluate(config, card, store, gen, file_digest(gen))
    assert "privacy/epsilon" not in result.metrics
    assert "privacy/epsilon_train" not in result.metrics
    assert result.metrics["privacy/epsilon_selection"] == pytest.approx(10, rel=1e-3)
    assert 0 <= result.metrics["utility/accuracy_best"] <= 100


def test_a_statement_is_believed_only_where_it_speaks_of_this_data(store, tiny, tmp_path):
    config, card = compose(tiny)
    trained = run_train(config, card, store)
    account = Account.parse(store.fetch(trained.run_id, "privacy/ledger.json").read_text())
    text = json.dumps({"epsilon": 0.001, "ledger": json.loads(account.model_dump_json())})
    gen = write_gen(tmp_path / "own.npz", statement=np.asarray(text))
    own = run_evaluate(config, card, store, gen, file_digest(gen))
    assert own.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)  # recomputed, not the 0.001 it claims
    foreign = account.model_copy(update={"dataset": "mnist_28"})
    text = json.dumps({"ledger": json.loads(foreign.model_dump_json())})
    gen = write_gen(tmp_path / "foreign.npz", statement=np.asarray(text))
    assert "privacy/epsilon" not in run_evaluate(config, card, store, gen, file_digest(gen)).metrics
    gen = write_gen(tmp_path / "forged.npz", statement=np.asarray('{"ledger": {"format": "mine"}}'))
    with pytest.raises(UserError, match="not a ledger of this format"):
        run_evaluate(config, card, store, gen, file_digest(gen))


def test_mode_sen_is_reported_under_oracle_only(go):
    _, run = go(eval__mode="sen")
    accuracies = {name for name in run.data.metrics if "accuracy" in name and "synthetic" not in name}
    assert accuracies
    assert all(name.startswith("oracle/") for name in accuracies)
    assert "privacy/epsilon_selection" not in run.data.metrics


def test_mode_syn_spends_nothing_on_selection(go):
    _, run = go(eval__mode="syn")
    assert "privacy/epsilon_selection" not in run.data.metrics
    assert "utility/accuracy_best" in run.data.metrics
    assert run.data.params["cfg.data.holdout"] == "0"


def test_yardstick_none_leaves_no_un_noised_figure(go):
    _, run = go(yardstick="none")
    assert not any(k.startswith(("fidelity", "oracle")) or "accuracy_best" in k for k in run.data.metrics)
    ledger = Account.parse(Store().fetch(run.info.run_id, "privacy/ledger.json").read_text())
    assert ledger.yardstick == []
    report = json.loads(Store().fetch(run.info.run_id, "report.json").read_text())
    assert set(report["selected"]) == {"resnet", "wrn", "best"}


def test_oracle_diagnostics_appear_only_when_asked_for(go):
    _, run = go(oracle="true")
    judged = children(run)["evaluate"]
    assert "oracle/resnet/test_accuracy" in judged.data.metrics
    assert 0 <= judged.data.metrics["oracle/memorisation/closer_to_train"] <= 1
    statement = Store().fetch(run.info.run_id, "privacy/statement.md").read_text()
    for split in ("train", "test"):
        assert f"oracle/memorisation ({split} images): un-noised distances" in statement
    assert "passing proves nothing" in statement


def test_training_images_that_are_public_too_are_counted_for_the_oracle(go):
    _, run = go(oracle="true", public="digits_28", eval__classifiers__wrn="none")
    judged = children(run)["evaluate"]
    assert judged.data.metrics["oracle/public_duplicates"] == 1348  # every one of them


def test_oracle_diagnostics_are_figures_on_real_images(go):
    with pytest.raises(UserError, match="yardstick=none forbids"):
        go(oracle="true", yardstick="none")


def test_selection_needs_held_out_images(go):
    with pytest.raises(UserError, match="selects on held-out images"):
        go(data__holdout=0, eval__mode="val")


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


def test_public_pretraining_is_a_stage_of_its_own_and_costs_nothing(go, store):
    _, run = go(public="digits_28")
    kids = children(run)
    assert set(kids) == {"pretrain", "train", "generate", "evaluate"}
    assert not any(k.startswith("privacy") for k in kids["pretrain"].data.metrics)
    assert run.data.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)


def test_pretraining_wants_public_data(store, tiny):
    config, card = compose(tiny)
    with pytest.raises(UserError, match="nothing to pretrain on"):
        run_pretrain(config, card, store)


def test_the_baseline_is_marked_as_not_private(store, tiny):
    config, card = compose(tiny)
    result = run_baseline(config, card, store)
    run = mlflow.get_run(result.run_id)
    assert run.data.tags["dpib.private"] == "false"
    assert run.data.tags["dpib.stage"] == "baseline"
    assert run.info.run_name == "baseline-digits_28-s0"
    assert not any(k.startswith("privacy") for k in run.data.metrics)
    assert run.data.metrics["utility/accuracy_best"] > 15


def test_without_inception_weights_a_random_embedding_stands_in_and_says_so(go, monkeypatch, capsys):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", offline)
    _, run = go(eval__embedding="inception")
    assert "fidelity_random/fid" in run.data.metrics
    assert not any(k.startswith("fidelity/") for k in run.data.metrics)
    assert "no Inception weights (no route to host)" in capsys.readouterr().err


def test_a_class_that_never_occurs_and_a_single_bad_classifier_do_not_stop_a_run(store, tiny, tmp_path):
    config, card = compose({**tiny, "eval.schedule.lr": "1e-9"})
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "g.npz", x=rng.integers(0, 256, (120, 28, 28), dtype=np.uint8), y=np.zeros(120, int))
    result = run_evaluate(config, card, store, tmp_path / "g.npz", "x")
    report = json.loads(store.fetch(result.run_id, "report.json").read_text())
    assert "diverged" in report
