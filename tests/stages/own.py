"""Image sets of one's own, work that is interrupted, and what a run's ledger says."""

import numpy as np
import pytest
import yaml

from dpib.chain import Start
from dpib.data.catalog import Source, find_card
from dpib.methods.kernel import MeanEmbedding
from dpib.privacy.ledger import Account
from dpib.stages.build import FINAL


def ledger(store, run):
    return Account.parse(store.fetch(run.run_id, "privacy/ledger.json").read_text())


def final(store, run):
    return Start(file=store.fetch(run.run_id, str(FINAL)))


def own_set(root, name, source, order=slice(None), title="own"):
    """Prepare a copy of another data set's images as somebody's own, in another order if asked for."""
    card = find_card(source, root).model_copy(
        update={"name": name, "title": title, "source": Source(kind="folders"), "counts": None}
    )
    (root / name).mkdir(parents=True)
    (root / name / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    for split in ("train", "test"):
        with np.load(root / source / f"{split}.npz") as content:
            arrays = dict(content)
        if split == "train":
            arrays = {k: v[order] if k in ("images", "labels") else v for k, v in arrays.items()}
        np.savez(root / name / f"{split}.npz", **arrays)


def interrupted(monkeypatch, work):
    """Do `work`, which ends as by Ctrl-C right after the training's release."""
    original = MeanEmbedding.train

    def dies(self, vault, log):
        original(self, vault, log)
        raise KeyboardInterrupt

    monkeypatch.setattr(MeanEmbedding, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        work()
    monkeypatch.setattr(MeanEmbedding, "train", original)
