"""The figures of docs/differences.md are those that the accountants give."""

import pytest

from benchmarks.published_epsilon import CASES

EPSILONS = [1, 4.797, 394.2, 3.39e5, 10, 48.57, 2723, 2.475e6, 10.47, 1455, 0.92, 9.3]
SLOW = {394.2, 2723}


def test_every_case_has_its_figure():
    assert len(CASES) == len(EPSILONS)


@pytest.mark.parametrize(
    ("case", "epsilon"),
    [
        pytest.param(
            case, epsilon, marks=[pytest.mark.slow] if epsilon in SLOW else [], id=f"{case.name}, {case.claimed}"
        )
        for case, epsilon in zip(CASES, EPSILONS, strict=True)
    ],
)
def test_what_can_be_proved_for_a_published_mechanism(case, epsilon):
    assert case.epsilon() == pytest.approx(epsilon, rel=0.015)


def test_the_page_states_these_figures(root):
    page = (root / "docs" / "differences.md").read_text()
    for stated in ("394 / 2,723", "4.8 / 48.6", "3.4e5 / 2.5e6", "10.5", "1,455", "0.92 / 9.3"):
        assert stated in page
