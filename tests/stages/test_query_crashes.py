"""Queries and lessons that are cut off: what is charged first, what is drawn again, where work goes on."""

from dataclasses import replace

import mlflow
import pytest
import torch

from dpib import chain, checkpoint, training
from dpib.chain import run_before, run_query
from dpib.diffusion.public import PublicBatches
from dpib.privacy.ledger import Account
from dpib.privacy.rng import NoiseSource
from dpib.stages.build import FINAL
from tests.stages.tracked import ledger_of


def test_a_pretraining_tracks_the_ledger_of_its_query_before_its_first_picture(store, pro, monkeypatch):
    config, card = pro()
    queried = run_query(config, card, store).run_id

    def dying(self, name, images, step):
        self._tell_ledger()
        raise RuntimeError("the process dies")

    monkeypatch.setattr("dpib.stage_log.StageLog.grid", dying)
    with pytest.raises(RuntimeError, match="dies"):
        run_before(config, card, store)
    (failed,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="attributes.status = 'FAILED'", output_format="list"
    )
    assert failed.data.tags["dpib.stage"] == "pretrain"
    assert ledger_of(store, failed.info.run_id).events == ledger_of(store, queried).events


def test_an_interrupted_query_draws_nothing_again(store, pro, monkeypatch):
    config, card = pro()
    drawn, normal = [], NoiseSource.normal

    def dying(self, shape):
        if len(drawn) == 2:
            raise RuntimeError("the process dies")
        drawn.append(shape)
        return normal(self, shape)

    monkeypatch.setattr(NoiseSource, "normal", dying)
    with pytest.raises(RuntimeError, match="dies"):
        run_query(config, card, store)
    kept = list(drawn)
    drawn.clear()
    monkeypatch.setattr(NoiseSource, "normal", lambda self, shape: drawn.append(shape) or normal(self, shape))
    result = run_query(config, card, store)
    assert len(kept) == 2  # the two samples of the first lesson
    assert len(drawn) == 1  # the second lesson's one release
    assert [e.count for e in ledger_of(store, result.run_id).events] == [2, 1]


def test_a_pretraining_that_is_killed_in_its_second_lesson_goes_on_there(store, pro, monkeypatch):
    config, card = pro()
    seen, rows = [], PublicBatches.rows

    def dying(self, loss, step):
        seen.append((self._name, step))
        if seen[-1] == ("frequency", 2):
            raise RuntimeError("the process dies")
        return rows(self, loss, step)

    unbroken = run_before(config, card, store)
    afresh = config.model_copy(update={"reuse": False}), card, store, replace(unbroken, pretrain=None), None
    monkeypatch.setattr(training, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(PublicBatches, "rows", dying)
    with pytest.raises(RuntimeError, match="dies"):
        chain._run_pretrain(*afresh)
    assert [step for name, step in seen if name == "central"] == [0, 1, 2]
    seen.clear()

    def going_on(self, loss, step):
        seen.append((self._name, step))
        return rows(self, loss, step)

    monkeypatch.setattr(PublicBatches, "rows", going_on)
    resumed = chain._run_pretrain(*afresh)
    # Snapshots take at most a twentieth of the time, so the last step may have none.
    assert seen in ([("frequency", step) for step in range(first, 4)] for first in (1, 2))
    assert store.tags(resumed.run_id)["dpib.inputs"] == unbroken.query.run_id
    ends = [checkpoint.load(store.fetch(r, str(FINAL)))["denoiser"] for r in (resumed.run_id, unbroken.pretrain.run_id)]
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


def test_a_query_is_charged_before_its_noise_is_drawn(store, pro, monkeypatch):
    config, card = pro()
    found, normal = [], NoiseSource.normal

    def looking(self, shape):
        (ledger,) = tuple(asking_folder.rglob("ledger.json"))
        found.append([e.id for e in Account.parse(ledger.read_text()).events])
        return normal(self, shape)

    from dpib.data.catalog import home

    asking_folder = home() / "work"
    monkeypatch.setattr(NoiseSource, "normal", looking)
    run_query(config, card, store)
    assert found == [["train/central"], ["train/central"], ["train/central", "train/frequency"]]
