"""Evaluation: modes, the yardstick, oracle figures, and files that anybody made."""

import json
import shutil

import mlflow
import numpy as np
import pytest

from dpib.chain import run_train
from dpib.config import compose
from dpib.data.split import holdout_positions
from dpib.errors import UserError
from dpib.pipeline import run_baseline, run_evaluate
from dpib.privacy.ledger import Account
from dpib.tracking import Store
from dpib.upstream import file_digest
from tests.stages.tracked import children


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


def test_a_statement_is_believed_only_where_it_speaks_of_this_data(store, tiny, tmp_path, capsys):
    config, card = compose(tiny)
    trained = run_train(config, card, store)
    account = Account.parse(store.fetch(trained.run_id, "privacy/ledger.json").read_text())
    text = json.dumps({"epsilon": 0.001, "ledger": json.loads(account.model_dump_json())})
    gen = write_gen(tmp_path / "own.npz", statement=np.asarray(text))
    own = run_evaluate(config, card, store, gen, file_digest(gen))
    assert own.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)  # recomputed, not the 0.001 it claims
    foreign = account.model_copy(update={"dataset": "mnist_28", "origins": ["elsewhere"], "images": None})
    text = json.dumps({"ledger": json.loads(foreign.model_dump_json())})
    gen = write_gen(tmp_path / "foreign.npz", statement=np.asarray(text))
    assert "privacy/epsilon" not in run_evaluate(config, card, store, gen, file_digest(gen)).metrics
    assert "states that it was made from mnist_28" in capsys.readouterr().err
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


def test_training_images_that_are_public_too_are_counted_for_the_oracle(go, digits_root, tmp_path, monkeypatch, capsys):
    root = tmp_path / "own-data"
    shutil.copytree(digits_root, root)
    monkeypatch.setenv("DPIB_DATA", str(root))
    with np.load(root / "digits_28" / "train.npz") as content:
        kept, held_out = (content["images"][positions] for positions in holdout_positions(1498, 150))
    with np.load(root / "glyphs_28" / "train.npz") as content:
        glyphs = dict(content)
    glyphs["images"][:12] = np.concatenate([kept[:9], held_out[:3]])
    np.savez(root / "glyphs_28" / "train.npz", **glyphs)
    _, run = go(oracle="true", public="glyphs_28", public_overlap="declared", eval__classifiers__wrn="none")
    judged = children(run)["evaluate"]
    assert judged.data.metrics["oracle/public_duplicates"] == 9  # of those that are trained on
    assert "9 training images are in glyphs_28, which is taken as public" in capsys.readouterr().err


def test_nothing_is_said_of_what_is_in_order(go, store, capsys):
    _, run = go(oracle="true", public="glyphs_28", eval__classifiers__wrn="none")
    judged = children(run)["evaluate"]
    assert judged.data.metrics["oracle/public_duplicates"] == 0
    assert "taken as public" not in capsys.readouterr().err
    report = json.loads(store.fetch(judged.info.run_id, "report.json").read_text())
    assert report["embedding"]["prefix"] == "fidelity_random"
    assert list(report["absent"]) == ["inception_score"]


def test_oracle_diagnostics_are_figures_on_real_images(go):
    with pytest.raises(UserError, match="yardstick=none forbids"):
        go(oracle="true", yardstick="none")


def test_selection_needs_held_out_images(go):
    with pytest.raises(UserError, match="selects on held-out images"):
        go(data__holdout=0, eval__mode="val")


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
    assert report["diverged"] == ["resnet", "wrn"]
