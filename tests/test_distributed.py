"""Two gloo processes make the private steps that one process makes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpib.distributed import World
from dpib.errors import UserError
from tests.ports import free_port

SCRIPT = """
import sys, torch
sys.path[:0] = [{root!r}, {nets!r}]
from pathlib import Path
from nets import Denoise, Net, flat, make, toy
from dpib.distributed import World
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault

folder, sigma, rate = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(1)
world = World.join(torch.device("cpu"))
account = Account(dataset="toy", relation="zero_out", epsilon=1e18, delta=1e-5, scopes={{"train": 7}})
ledger = Ledger.open(folder / f"ledger-{{world.rank}}.json", account)
plan = (Charge("sgd", "gaussian", "", sigma=sigma, rate=rate, count=40),)
# Ranks that do not lead get another seed: their noise must not matter.
vault = Vault(toy(7), "train", ledger, plan, NoiseSource(world.rank), folder / "private", world=world)
model = make(Net)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
spec = GradientSpec(clip=0.05, seed=0, strategy="loop", physical=2, classes=3)
steps = vault.gradients("sgd", Denoise(2), model, spec)
seen = []
for _ in range(40):
    gradient = next(steps).of
    seen.append(flat(gradient))
    for parameter, value in zip(model.parameters(), gradient):
        parameter.grad = value
    optimizer.step()
torch.save(torch.stack(seen), folder / f"seen-{{world.rank}}.pt")
assert len(ledger.account.events) == (1 if world.leads else 0)
world.leave()
"""


def environment(size):
    """Return what torchrun would set for every rank, but the rank."""
    places = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return {**os.environ, **places}


def run(folder, processes, sigma, rate):
    """Return what every rank saw, float64 [40, parameters] each."""
    folder.mkdir()
    root = Path(__file__).parents[1]
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(root), nets=str(root / "tests" / "privacy")))
    common = environment(processes)
    command = [sys.executable, str(script), str(folder), str(sigma), str(rate)]
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": str(r)}, stderr=subprocess.PIPE, text=True)
        for r in range(processes)
    ]
    for rank in ranks:
        _, complaint = rank.communicate()
        assert rank.returncode == 0, complaint
    return [torch.load(folder / f"seen-{r}.pt", weights_only=True) for r in range(processes)]


def test_two_processes_equal_one(tmp_path):
    """Batches of 0 to 7 records occur, and so do ranks without any."""
    (one,) = run(tmp_path / "one", 1, 1.0, 0.4)
    first, second = run(tmp_path / "two", 2, 1.0, 0.4)
    assert torch.equal(first, second)
    assert float((one - first).norm() / one.norm()) < 1e-6


def test_noise_is_added_once_whatever_the_number_of_processes(tmp_path):
    first, _ = run(tmp_path / "two", 2, 3.0, 1e-12)
    noise = first * 7e-12 / (3.0 * 0.05)
    assert float(noise.var()) == pytest.approx(1, rel=0.02)
    assert float((noise[1:] * noise[:-1]).mean()) == pytest.approx(0, abs=0.02)


def test_a_process_that_ends_with_messages_under_way_is_not_aborted(root):
    script = """
import torch
import torch.distributed as dist
from dpib.distributed import World
World.join(torch.device("cpu"))
import torch.distributed.nn.functional  # as optimizers do, some time later
for _ in range(40):
    dist.all_reduce(torch.ones(300_000), async_op=True)
"""
    common = {**environment(2), "PYTHONPATH": str(root)}
    ranks = [subprocess.Popen([sys.executable, "-c", script], env={**common, "RANK": r}) for r in "01"]
    assert [rank.wait() for rank in ranks] == [0, 0]


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world, tensor = World.join(torch.device("cpu")), torch.arange(3.0)
    world.barrier()
    assert world.leads
    assert world.size == 1
    assert torch.equal(world.all_reduce_sum(world.broadcast(tensor)), torch.arange(3.0))
    world.leave()


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="RANK is not set: start the processes with torchrun"):
        World.join(torch.device("cpu"))


def test_a_stage_that_one_process_does_alone_has_the_threads_of_all(monkeypatch):
    own = torch.get_num_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with World().alone():
        assert torch.get_num_threads() == 3 * own
    assert torch.get_num_threads() == own
