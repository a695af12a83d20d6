"""Texts on the command line of a sweep or a suite are taken literally, as on any other."""

import pytest

from dpib.config.compose import typed
from dpib.sweeps.spec import read_sweep
from dpib.sweeps.suite import read_suite, resolve


def test_the_texts_of_a_suite_reach_its_cells_as_they_are():
    suite = read_suite("smoke", {"note": "007", "data_root": "/x/disk #1", "suite.methods": "[dp-merf]"})
    assert {(cell.config.note, cell.config.data_root) for cell in resolve(suite)} == {("007", "/x/disk #1")}


def test_the_texts_of_a_sweep_are_its_own():
    spec, rest, base = read_sweep("classifier", {"sweep.name": "2024", "sweep.score.metric": "1e3", "note": "12:30"})
    assert (spec.name, spec.score.metric) == ("2024", "1e3")
    assert typed(rest, *([base["method"]] if "method" in base else [])) == {"note": "12:30"}


@pytest.mark.parametrize("methods", [(), ("dp-merf",), ("no-such-method",)])
def test_any_method_leaves_the_common_texts_alone(methods):
    assert typed({"note": "1e3", "seed": "1e3"}, *methods) == {"note": "1e3", "seed": 1000.0}
