"""A DP-SGD training that is killed again and again."""

from benchmarks.kills import trainings


def test_a_killed_training_ends_like_an_unbroken_one():
    kills, _ = trainings(least=12)
    assert kills >= 12
