"""Every planted fault is caught, and sound code raises no alarm."""

import pytest

from benchmarks.audit_mutations import FAULTS, caught_by
from benchmarks.audited import counts, names, selections, steps, sums
from benchmarks.audited_features import features, per_step
from benchmarks.audited_queries import lineage, queries
from dpib.privacy.audit.canaries import audit_canaries
from dpib.privacy.audit.findings import failed
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name):
    assert caught_by(name) is not None


@pytest.mark.parametrize("audit", [steps, sums, queries, features, per_step, lineage, names, counts, selections])
def test_sound_code_raises_no_alarm(audit):
    assert failed([finding for findings in audit() for finding in findings]) == []


@pytest.mark.parametrize("run", range(20))
def test_twenty_sound_trainings_raise_no_alarm(run):
    spec = GradientSpec(clip=1.0, seed=run, strategy="vmap")
    charge = Charge("steps", "gaussian", "made up", sigma=0.5 + run / 4, rate=0.02 + run / 50, count=10)
    assert failed(audit_canaries(charge, spec, 1, 5000, canaries=200, steps=20)) == []


def test_a_truncated_sampler_is_audited_at_its_own_rate():
    spec = GradientSpec(clip=1.0, seed=0, strategy="vmap")
    charge = Charge("steps", "gaussian", "made up", sigma=1.0, rate=0.1, count=10, cap=500)
    assert failed(audit_canaries(charge, spec, 1, 5000, steps=20)) == []
