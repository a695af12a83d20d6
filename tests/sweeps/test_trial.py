"""The parts of a trial: a log and a folder for each, the best classifier, and files that say what all of it cost."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dpib import checkpoint
from dpib.config import compose
from dpib.data.synthetic import read_gen
from dpib.distributed import World
from dpib.follower import SilentLog
from dpib.images import Images
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import Account, BudgetError
from dpib.sensitive import fresh_account
from dpib.stages import course, train
from dpib.stages.build import FINAL
from dpib.stages.context import Context
from dpib.stages.generate import GEN, statement_text, write
from dpib.sweeps import trial

CHARGE = Charge("embedding", "gaussian", "", sigma=2.0)


class Told(SilentLog):
    """A log that remembers its curves."""

    def __init__(self, snapshot, curves=None):
        super().__init__(snapshot, keeps=True)
        self.curves = [] if curves is None else curves

    def part(self, name):
        return Told(checkpoint.beside(self._snapshot, name), self.curves)

    def curve(self, name, value, step):
        self.curves.append((name, value, step))


@pytest.fixture
def context(tiny, tmp_path):
    config, card = compose({**tiny, "eval.schedule.epochs": "2"})
    for name in ("artifacts", "private"):
        (tmp_path / name).mkdir()
    return Context(
        config,
        card,
        torch.device("cpu"),
        tmp_path / "artifacts",
        tmp_path / "private",
        Told(tmp_path / "private" / "snapshot.safetensors"),
        World(),
    )


@pytest.fixture
def images():
    """Return images that any classifier tells apart: the label is the brightness."""
    y = torch.arange(30) % 10
    return Images((25 * y).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous(), y)


def test_every_part_has_files_of_its_own_and_speaks_through_the_trial(context):
    first, second = course.inside(context, "train"), course.inside(context, "generate")
    assert [part.private for part in (first, second)] == [context.private / name for name in ("train", "generate")]
    assert first.artifacts == context.artifacts
    assert first.log.restored() is None
    first.log.save({"step": 3})
    assert first.log.restored() == {"step": 3}
    assert second.log.restored() is None
    second.log.curve("loss", 1.0, 2)
    assert context.log.curves == [("loss", 1.0, 2)]


def test_the_best_classifier_by_its_last_epoch_is_kept_and_comes_back_as_it_was(context, images):
    asked = []
    fitted = trial.fit(context, images, lambda step, value: asked.append((step, value)))
    assert [step for step, _ in asked] == [0, 1, 2, 3]  # two classifiers, two epochs each
    last = {"resnet": asked[1][1], "wrn": asked[3][1]}
    assert fitted.synthetic == max(last.values()) == last[fitted.name]
    synthetic = [value for name, value, _ in context.log.curves if name.endswith("synthetic_accuracy")]
    assert synthetic == [value for _, value in asked]
    trial.keep(context.artifacts / trial.CLASSIFIER, fitted)
    again = trial.load(context, context.artifacts / trial.CLASSIFIER)
    assert torch.equal(again(images.x), fitted.predict(images.x))


def test_a_trial_is_given_up_at_the_step_that_says_so(context, images):
    asked = []

    def stop(step, value):
        asked.append(step)
        return step == 1

    assert trial.fit(context, images, stop) is None
    assert asked == [0, 1]


def test_a_training_is_done_once_and_throws_its_trial_away_if_it_charges_more(context, monkeypatch):
    made, account = [], fresh_account(context.config, context.card)
    more = trial.spent_on((CHARGE,), account)

    def fit(inside, sensitive, pretrained, ledger, plan):
        made.append(inside.private.name)
        checkpoint.save(inside.artifacts / FINAL, {}, ledger=ledger.json())
        ledger.reserve(plan.named(), "train")

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(course, "generate", lambda *arguments: made.append("generate"))
    with pytest.raises(BudgetError, match="other charges than its plan had foreseen"):
        course.follow(context, None, None, Plan((CHARGE,)), account)
    assert made == ["train"]
    course.follow(context, None, None, Plan((CHARGE,)), more)
    assert made == ["train", "generate"]  # the checkpoint is there
    (context.artifacts / GEN).parent.mkdir()
    (context.artifacts / GEN).touch()
    course.follow(context, None, None, Plan((CHARGE,)), more)
    assert made == ["train", "generate"]


def test_a_spent_plan_stands_in_the_account_once(context):
    account = fresh_account(context.config, context.card)
    assert [event.id for event in trial.spent_on((CHARGE,), account).events] == ["train/embedding"]
    assert account.events == []


def test_every_file_of_a_trial_is_given_the_whole_account(context, images):
    account = fresh_account(context.config, context.card)
    whole = trial.spent_on((CHARGE,), account)
    trial.restate(context, whole)  # a classifier sweep has neither checkpoint nor images
    assert not (context.artifacts / FINAL).exists()
    assert not (context.artifacts / GEN).exists()
    checkpoint.save(context.artifacts / FINAL, {"a": torch.ones(2)}, ledger=account.text())
    write(context.artifacts / GEN, images, statement_text(account, "dp-merf"))
    trial.restate(context, whole)
    assert Account.parse((context.artifacts / "privacy" / "ledger.json").read_text()) == whole
    assert "train/embedding" in (context.artifacts / "privacy" / "statement.md").read_text()
    assert Account.parse(checkpoint.text(context.artifacts / FINAL, "ledger")) == whole
    assert checkpoint.load(context.artifacts / FINAL)["a"].tolist() == [1, 1]
    again, _ = read_gen(context.artifacts / GEN, context.card)
    assert torch.equal(again.x, images.x)
    with np.load(context.artifacts / GEN) as content:
        assert Account.parse(json.dumps(json.loads(str(content["statement"]))["ledger"])) == whole


def test_a_secret_trial_says_nothing(context, capsys):
    silent = SilentLog(context.private / "snapshot.safetensors", keeps=True)
    for told in (silent.say("x"), silent.curve("x", 1.0, 1), silent.table("x", [{"a": 1}]), silent.restored()):
        assert told is None
    assert capsys.readouterr() == ("", "")
    inside = course.inside(replace(context, log=silent), "train")
    inside.log.save({"step": 1})
    assert inside.log.restored() == {"step": 1}  # its parts keep snapshots all the same
