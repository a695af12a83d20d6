"""The audit command: what it reports on sound code, and how it ends on broken code."""

import json

import pytest
from click.testing import CliRunner

from dpib.privacy.rng import NoiseSource
from dpib.tracking import Store
from entrypoints import audit


def run(tiny, *arguments):
    flags = [f"--{key}={value}" for key, value in tiny.items()]
    return CliRunner().invoke(audit.main, [*flags, *arguments])


def findings(result):
    run_id = result.output.rpartition("audit run ")[2].split()[0]
    return json.loads(Store().fetch(run_id, "audit/findings.json").read_text())


def test_a_sound_method_passes_every_check(tiny, tracking_uri):
    result = run(tiny)
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert {f["layer"] for f in found} == {"sensitivity", "noise", "ledger"}
    assert {f["release"] for f in found} == {"embedding", "selection"}
    assert all(f["passed"] for f in found)
    assert "it proves no privacy" in result.output


def test_a_broken_mechanism_ends_with_status_one(tiny, tracking_uri, monkeypatch):
    normal = NoiseSource.normal
    monkeypatch.setattr(NoiseSource, "normal", lambda self, shape: normal(self, shape) / 2)
    result = run(tiny)
    assert result.exit_code == 1
    failed = [f for f in findings(result) if not f["passed"]]
    assert {f["release"] for f in failed} == {"embedding"}
    assert any(f["check"].startswith("variance") for f in failed)
    assert "**FAILED**" in result.output


@pytest.mark.slow
def test_the_black_box_stays_below_the_claim(tiny, tracking_uri):
    result = run(tiny, "--black_box=true")
    assert result.exit_code == 0, result.output
    (box,) = [f for f in findings(result) if f["layer"] == "black box"]
    assert 0 < box["value"] < 10
