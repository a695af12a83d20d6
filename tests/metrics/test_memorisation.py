"""Planted copies set the alarm off; honest draws do not; and one copy in a hundred goes unnoticed."""

import pytest
import torch

from dpib.metrics.memorisation import memorisation, nearest

N, D = 600, 12


def draws(n, seed):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def planted(share, seed=0, jitter=0.0):
    """Return the figures of 1500 honest draws, of which `share` are replaced by training images."""
    train, held_out, synthetic = draws(N, 1 + seed), draws(N, 2 + seed), draws(1500, 3 + seed)
    copies = round(share * len(synthetic))
    synthetic[:copies] = train[torch.arange(copies) % N] + jitter * draws(copies, 4 + seed)
    return memorisation(synthetic, train, held_out)


@pytest.mark.parametrize("seed", [0, 10, 20, 30])
def test_honest_draws_give_the_figures_of_no_memory(seed):
    found = planted(0.0, seed)
    assert found["closer_to_train"] == pytest.approx(0.5, abs=0.06)
    assert found["distance_ratio"] == pytest.approx(1.0, abs=0.03)
    assert found["auc"] == pytest.approx(0.5, abs=0.06)
    assert found["tpr_at_1_fpr"] < 0.05


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_copies_move_every_figure(share):
    honest, found = planted(0.0), planted(share)
    assert found["closer_to_train"] > honest["closer_to_train"] + share / 4
    assert found["auc"] > honest["auc"] + share / 4
    assert found["tpr_at_1_fpr"] > honest["tpr_at_1_fpr"] + share / 2
    assert found["distance_ratio"] < honest["distance_ratio"] - share / 2


def test_nothing_but_copies_is_caught_entirely():
    found = planted(1.0)
    assert found["closer_to_train"] == 1
    assert found["distance_ratio"] == 0
    assert found["auc"] == 1
    assert found["tpr_at_1_fpr"] == 1


def test_copies_with_a_little_noise_are_caught_too():
    assert planted(0.2, jitter=0.05)["tpr_at_1_fpr"] > 0.4


def test_passing_proves_nothing():
    """One image in a hundred is a training image, and a reader of these figures would not see it."""
    found = planted(0.01)
    assert found["auc"] < 0.55
    assert found["closer_to_train"] < 0.55


def test_unequal_sets_are_cut_to_one_size():
    """With all of ten times as many training images, honest draws would seem closer to them."""
    found = memorisation(draws(1500, 3), draws(10 * N, 1), draws(N, 2))
    assert found["closer_to_train"] == pytest.approx(0.5, abs=0.06)


def test_nearest_distances_go_both_ways_and_through_images():
    a, b = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]), torch.tensor([[[0.0, 0.0]]])
    to, back = nearest(a, b)
    assert to.tolist() == [0.0, 5.0]
    assert back.tolist() == [0.0]


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="need synthetic"):
        memorisation(draws(0, 1), draws(5, 2), draws(5, 3))
