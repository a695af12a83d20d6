"""The audit command: what it reports on sound code, and how it ends on broken code."""

import json

import pytest
from click.testing import CliRunner

from dpib.privacy.rng import NoiseSource
from dpib.tracking import Store
from entrypoints import audit
from tests.conftest import PRIVIMAGE, PRO, TINY_DIFFUSION

NAMES = ("key stream, sums", "key stream, steps")


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
    assert {f["release"] for f in found} == {"embedding", "selection", "counts", *NAMES}
    assert all(f["passed"] for f in found)
    assert "it proves no privacy" in result.output


def test_a_broken_mechanism_ends_with_status_one(tiny, tracking_uri, monkeypatch):
    normal = NoiseSource.normal
    monkeypatch.setattr(NoiseSource, "normal", lambda self, shape: normal(self, shape) / 2)
    result = run(tiny)
    assert result.exit_code == 1
    failed = [f for f in findings(result) if not f["passed"]]
    assert {f["release"] for f in failed} == {"embedding", "counts", *NAMES}
    assert any(f["check"].startswith("variance") for f in failed)
    assert "**FAILED**" in result.output


def test_a_method_that_needs_a_pretrained_start_is_audited_without_one(tiny, tracking_uri):
    common = {k: v for k, v in tiny.items() if k.startswith(("generate", "eval"))}
    result = run({**common, **TINY_DIFFUSION, "method": "dp-ldm-sd", "dataset": "digits_28", "eval.mode": "syn"})
    assert result.exit_code == 0, result.output
    assert "random weights in place of pretrained ones" in result.output
    found = findings(result)
    assert all(f["passed"] for f in found)
    assert {"dp-sgd", "dp-sgd, two processes"} <= {f["release"] for f in found}


@pytest.mark.slow
def test_the_black_box_stays_below_the_claim(tiny, tracking_uri):
    result = run(tiny, "--black_box=true")
    assert result.exit_code == 0, result.output
    (box,) = [f for f in findings(result) if f["layer"] == "black box"]
    assert 0 < box["value"] < 10


@pytest.mark.parametrize(
    ("recipe", "releases"),
    [(PRO, {"central", "frequency", "dp-sgd"}), (PRIVIMAGE, {"selected", "dp-sgd"})],
    ids=["feta-pro", "privimage"],
)
def test_queries_are_audited_beside_the_training(tiny, tracking_uri, recipe, releases):
    common = {k: v for k, v in tiny.items() if k.startswith(("generate", "eval"))}
    result = run({**common, **TINY_DIFFUSION, **recipe, "epsilon": "10", "dataset": "digits_28", "eval.mode": "syn"})
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert releases <= {f["release"] for f in found}
    assert all(f["passed"] for f in found)
    told = {f["check"] for f in found if f["release"] in releases - {"dp-sgd"}}
    assert {"drawn by one process of two", "charged once, as planned"} <= told
