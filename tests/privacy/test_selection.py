"""Report-noisy-max on held-out images, against its closed form."""

import math

import pytest
import torch

from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.ledger import BudgetError
from dpib.privacy.rng import NoiseSource

N = 40


def plan(epsilon):
    return (Charge("pick", "noisy_max", "", epsilon=epsilon),)


@pytest.fixture
def images():
    return Images(torch.zeros(N, 1, 4, 4, dtype=torch.uint8), torch.zeros(N, dtype=torch.int64))


def right_on(hits):
    """Return a predictor that gets exactly the first `hits` records right."""
    return lambda x: (torch.arange(len(x)) >= hits).long()


def frequency(make_vault, images, hits, epsilon, rounds, relation="zero_out", tag=""):
    """Return how often the first candidate wins."""
    wins = 0
    for i in range(rounds):
        vault = make_vault(
            images, plan(epsilon), scope="val", relation=relation, noise=NoiseSource(), folder=f"{tag}{i}"
        )
        for name, count in hits.items():
            vault.score(name, right_on(count))
        wins += vault.select("pick", list(hits)) == next(iter(hits))
    return wins / rounds


@pytest.mark.parametrize(("gap", "epsilon"), [(0, 1.0), (1, 1.0), (3, 0.5), (-2, 1.0)])
def test_two_candidates_win_as_often_as_the_closed_form_says(make_vault, images, gap, epsilon):
    """P(first wins) = 1 - (1 + g/2) exp(-g)/2 with g = epsilon * gap >= 0."""
    g = epsilon * abs(gap)
    ahead = 1 - (1 + g / 2) * math.exp(-g) / 2
    expected = ahead if gap >= 0 else 1 - ahead
    found = frequency(make_vault, images, {"a": 20 + gap, "b": 20}, epsilon, 400)
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 400) + 0.01)


def test_replace_one_takes_twice_the_noise(make_vault, images):
    g = 0.5 * 2
    expected = 1 - (1 + g / 2) * math.exp(-g) / 2
    found = frequency(make_vault, images, {"a": 22, "b": 20}, 1.0, 400, relation="replace_one")
    assert found == pytest.approx(expected, abs=0.09)


def test_a_clear_winner_wins_among_many(make_vault, images):
    vault = make_vault(images, plan(5.0), scope="val", noise=NoiseSource())
    for i in range(20):
        vault.score(f"c{i}", right_on(39 if i == 13 else 2))
    assert vault.select("pick", [f"c{i}" for i in range(20)]) == "c13"


def test_a_selection_is_charged_and_repeated_from_disk(make_vault, images):
    def open_vault():
        vault = make_vault(images, plan(1.0), scope="val", noise=NoiseSource())
        for name in "abc":
            vault.score(name, right_on(20))
        return vault

    first = open_vault()
    chosen = first.select("pick", list("abc"))
    assert first._ledger.account.spent() == pytest.approx(1.0, rel=1e-3)
    assert all(open_vault().select("pick", list("abc")) == chosen for _ in range(10))


def test_counts_survive_a_crash_in_the_private_folder_only(make_vault, images, tmp_path):
    make_vault(images, plan(1.0), scope="val").score("a", right_on(7))
    again = make_vault(images, plan(1.0), scope="val")
    assert again._counts == {"a": 7}
    assert [p.parent.name for p in tmp_path.rglob("*counts*")] == ["private"]


def test_a_selection_over_budget_is_refused(make_vault, images):
    vault = make_vault(images, plan(2.0), scope="val", epsilon=1.0)
    vault.score("a", right_on(1))
    with pytest.raises(BudgetError, match="over the budget"):
        vault.select("pick", ["a"])
