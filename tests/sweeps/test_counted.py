"""What sweeps and evaluations spent counts in each other, and a proxy is not the sensitive set."""

import shutil

import pytest
import yaml

from dpib.data.catalog import Source, find_card
from dpib.errors import UserError
from dpib.pipeline import run_evaluate
from dpib.stages.generate import GEN
from dpib.sweeps.launch import run_sweep
from dpib.upstream import file_digest
from tests.sweeps.test_sweeps import base, images, order, store  # noqa: F401 - fixtures


@pytest.mark.parametrize("how", ["card", "copy"])
def test_a_proxy_that_is_the_sensitive_set_is_refused(order, store, tmp_path, digits_root, monkeypatch, how):  # noqa: F811
    root = tmp_path / "own-data"
    shutil.copytree(digits_root, root)
    monkeypatch.setenv("DPIB_DATA", str(root))
    card = find_card("digits_28", root)
    if how == "copy":
        card = card.model_copy(update={"name": "copy", "source": Source(kind="folders"), "counts": None})
        shutil.copytree(root / "digits_28", root / "copy")
        (root / "copy" / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    proxy = "copy" if how == "copy" else str(tmp_path / "c.yaml")
    with pytest.raises(UserError, match=r"the sensitive data set itself|holds exactly the images"):
        run_sweep(order(mode="public", proxy=proxy, final=True, trials=1), store)


def test_what_an_evaluation_by_file_spent_counts_in_a_sweep(base, order, images, store, tmp_path):  # noqa: F811
    shutil.copy(store.fetch(images, str(GEN)), tmp_path / "c.npz")
    run_evaluate(*base, store, tmp_path / "c.npz", file_digest(tmp_path / "c.npz"))
    with pytest.raises(UserError, match="have already spent epsilon 10 of"):
        run_sweep(order(images, mode="one_shot"), store)


def test_what_a_sweep_of_classifiers_spent_counts_in_an_evaluation(base, order, images, store):  # noqa: F811
    run_sweep(order(images, mode="one_shot"), store)
    judged = run_evaluate(*base, store, store.fetch(images, str(GEN)), images)
    assert judged.metrics["privacy/epsilon_selection"] == pytest.approx(20, rel=1e-3)
