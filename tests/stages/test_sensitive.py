"""The sensitive set: what its account starts from, when it knows a training, and which public sets it refuses."""

import pytest
import torch

from dpib.config import compose
from dpib.data import store
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import Ledger
from dpib.sensitive import HANDFUL, Sensitive, fresh_account


@pytest.fixture
def sensitive(tiny):
    return Sensitive(*compose(tiny))


@pytest.fixture
def pixels(digits_root):
    return store.read_pixels(store.split_path(digits_root, "digits_28", "train")).x


def test_an_account_begins_with_what_the_configuration_says(tiny):
    config, card = compose({**tiny, "epsilon": "3", "delta": "1e-6", "relation": "replace_one", "accountant": "rdp"})
    account = fresh_account(config, card)
    assert (account.dataset, account.relation, account.accountant) == ("digits_28", "replace_one", "rdp")
    assert (account.epsilon, account.delta) == (3.0, 1e-6)
    assert account.scopes == {"train": 1348, "val": 150}
    assert account.events == []
    config, card = compose({**tiny, "data.holdout": "0", "eval.mode": "syn"})
    assert fresh_account(config, card).scopes == {"train": 1498}


@pytest.mark.parametrize(("copies", "overlap"), [(HANDFUL, False), (HANDFUL + 1, True)])
def test_a_handful_of_copies_is_an_accident_and_one_more_is_none(sensitive, pixels, copies, overlap):
    assert HANDFUL == 5
    others = pixels[:20].clone()
    others[copies:] = 255 - others[copies:]
    read = []

    def public():
        read.append(True)
        return Images(others, torch.zeros(20, dtype=torch.int64))

    assert sensitive.overlaps("unheard of", lambda: None) is None
    assert sensitive.overlaps("public", public) is overlap
    assert sensitive.overlaps("public", public) is overlap
    assert read == [True]  # the count is remembered


def test_images_of_another_shape_are_no_copies(sensitive):
    smaller = Images(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    assert sensitive.overlaps("smaller", lambda: smaller) is False


def test_a_training_is_known_where_this_machine_saw_every_part_of_it(sensitive):
    assert sensitive.trained(sensitive.account())
    told = sensitive.account()
    assert told.images is not None  # they come with a package
    fresh = told.model_copy(update={"images": None})
    assert sensitive.trained(fresh)  # nothing was trained
    charge = Charge("a", "gaussian", "", sigma=1.0)
    trained = fresh.model_copy(
        update={"events": Plan((charge,)).events("train", 1348, fresh.relation), "origins": ["first", "second"]}
    )
    assert not sensitive.trained(trained)
    sensitive.remember("second")
    assert not sensitive.trained(trained)
    sensitive.remember("first")
    assert sensitive.trained(trained)
    assert not sensitive.trained(trained.model_copy(update={"origins": []}))
    assert sensitive.trained(trained.model_copy(update={"origins": [], "images": told.images}))
    assert not sensitive.trained(trained.model_copy(update={"origins": [], "images": "digest of others"}))


def test_vaults_hold_the_split_and_yardsticks_the_part_that_was_trained_on(sensitive, tmp_path):
    ledger = Ledger(sensitive.account(), tmp_path / "ledger.json")
    plan = Plan((Charge("a", "gaussian", "", sigma=1.0),))
    assert [sensitive.vault(scope, ledger, plan, tmp_path).n for scope in ("train", "val")] == [1348, 150]
    assert [sensitive.yardstick(split, ledger).n for split in ("train", "test")] == [1348, 299]
    assert [len(part) for part in sensitive.baseline()] == [1348, 150]


def test_held_out_images_that_do_not_exist_are_refused_before_a_vault_is_made(tiny, tmp_path):
    config, card = compose({**tiny, "data.holdout": "0", "eval.mode": "syn"})
    bare = Sensitive(config, card)
    ledger = Ledger(bare.account(), tmp_path / "ledger.json")
    with pytest.raises(UserError, match=r"held-out images: set data\.holdout"):
        bare.vault("val", ledger, Plan(()), tmp_path)
