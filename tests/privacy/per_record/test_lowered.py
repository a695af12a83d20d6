"""Passes in bfloat16 change what is clipped, never by how much: norms, sums and noise stay float32 or wider."""

import itertools
import logging

import pytest
import torch

from dpib import precision
from dpib.errors import UserError
from dpib.privacy.per_record import autotune, grouped
from dpib.privacy.per_record.autotune import choose, load
from dpib.privacy.per_record.draws import draw
from dpib.privacy.per_record.lowered import Lowered
from dpib.privacy.per_record.probes import Probes
from dpib.privacy.rng import NoiseSource
from tests.privacy.nets import CLIP, Denoise, Diffusers, Net, flat, make, plan, spec, toy

CPU = torch.device("cpu")
NAMES = ("loop", "grouped", "joined", "hooks")  # autocast has no rule for vmap, which is out then
WHITE = torch.full((1, 8, 8), 255, dtype=torch.uint8)


def clipped(name, network, loss, images, clip):
    return load(name)(network, loss, draw(loss, images, torch.arange(len(images)), 0, 0, CPU), clip)


@pytest.mark.parametrize("network", [Net, Diffusers])
@pytest.mark.parametrize("name", NAMES)
def test_the_norm_that_is_clipped_is_that_of_float32(name, network):
    """A clip in bfloat16 would miss by up to 0.4 %."""
    network, norms = make(network), []
    for i in range(8):
        parts = clipped(name, network, Lowered(Denoise(1, 1e4)), toy(9, WHITE).take(slice(i, i + 1)), CLIP)
        assert {part.dtype for part in parts} == {torch.float32}
        norms.append(float(flat(parts).norm()))
    assert max(norms) <= CLIP * (1 + 1e-6)
    assert max(norms) > CLIP * (1 - 1e-5)


@pytest.mark.parametrize("network", [Net, Diffusers])
@pytest.mark.parametrize(
    ("name", "multiplicity"), [*((name, 1) for name in NAMES), ("loop", 4), ("grouped", 4), ("joined", 4)]
)
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(name, multiplicity, network):
    network, loss = make(network), Denoise(multiplicity)
    exact = flat(clipped("loop", network, loss, toy(6), 1e9))
    rounded = flat(clipped(name, network, Lowered(loss), toy(6), 1e9))
    assert 1e-5 < float((exact - rounded).norm() / exact.norm()) < 0.03


def test_one_record_moves_a_step_in_bfloat16_by_at_most_the_clip(make_vault):
    distances = []
    for strategy, seed in itertools.product(("loop", "grouped"), range(3)):
        steps = []
        for images in (toy(6, WHITE), toy(6, WHITE).take(slice(0, 5))):
            vault = make_vault(
                images, plan(sigma=1e-3), noise=NoiseSource(seed), folder=f"{strategy}{seed}{len(images)}"
            )
            how = spec(seed=seed, strategy=strategy, precision="bf16")
            step = next(vault.gradients("sgd", Denoise(1, 1e4), make(Net), how))
            steps.append(flat(step.of) * len(images))
        distances.append(float((steps[0] - steps[1]).norm()))
    assert max(distances) == pytest.approx(CLIP, rel=1e-4)


def test_strategies_are_compared_in_float32_and_timed_in_both(monkeypatch, caplog):
    monkeypatch.setattr(autotune, "multiplies_faster", lambda device: True)
    probes = Probes(Denoise(2), (1, 8, 8), 3, CPU)
    seconds = {True: 1.0, False: 2.0}
    monkeypatch.setattr(autotune, "_seconds", lambda name, model, loss, rows: seconds[isinstance(loss, Lowered)])
    with caplog.at_level(logging.INFO):
        assert choose(make(Net), probes.loss, probes, "grouped", 4, "auto").lower
    assert "in bfloat16 differ from those in float32 by" in caplog.text
    seconds[True] = 3.0
    assert not choose(make(Net), probes.loss, probes, "grouped", 4, "auto").lower
    assert choose(make(Net), probes.loss, probes, "grouped", 4, "bf16").lower
    assert not choose(make(Net), probes.loss, probes, "grouped", 4, "fp32").lower
    sound = grouped.clipped_sum
    # Far less than what rounding to bfloat16 does.
    wrong = lambda *how: [1.0001 * part for part in sound(*how)]  # noqa: E731
    monkeypatch.setattr(grouped, "clipped_sum", wrong)
    with pytest.raises(UserError, match="its sum differs from the record loop's"):
        choose(make(Net), probes.loss, probes, "grouped", 4, "bf16")


def test_auto_is_bfloat16_where_there_are_units_for_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(precision, "multiplies_faster", lambda device, has=has: has)
        assert precision.lowers("auto", CPU) is has
        assert precision.settled("auto", CPU) == ("bf16" if has else "fp32")
    assert precision.lowers("bf16", CPU)
    assert not precision.lowers("fp32", CPU)
