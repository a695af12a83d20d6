"""Pretraining, private training and drawing in two real processes, without any store: equal to one process."""

import os
import subprocess
import sys

import pytest
import torch

from dpib import checkpoint
from tests.ports import free_port

PROGRAM = """
import sys
from pathlib import Path
import torch
from dpib import checkpoint, seeding
from dpib.diffusion.settings import DiffusionSettings
from dpib.distributed import World
from dpib.images import Images
from dpib.methods.diffusion import Diffusion
from dpib.methods.gan import Gan, GanSettings
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.synthesizer import Task
from tests.quiet import Quiet

world = World.join(torch.device("cpu"))
torch.set_num_threads(1)
folder = Path(sys.argv[1]) / str(world.rank)
folder.mkdir(parents=True)
diffusion = DiffusionSettings(
    network={"nf": 8, "ch_mult": [1], "attn_resolutions": [], "blocks": 1},
    loss={},
    lessons=[
        {"kind": "public", "fit": {"steps": 3}},
        {"kind": "central", "samples": 2, "batch": 10, "noise_multiplier": 1.0, "fit": {"steps": 1, "batch": 6}},
    ],
    pretrain={"steps": 4, "batch": 7, "lr": 0.01},
    train={"steps": 4, "batch": 9, "lr": 0.01, "clip": 0.01, "multiplicity": 2, "strategy": "loop", "physical": 4},
    sampler={"name": "ddim", "steps": 2},
)
gan = GanSettings(
    network={"name": "small", "latent": 4, "width": 4, "hidden": 20},
    critic={"width": 4},
    adversary={"lr": 0.01, "batch": 8, "every": 2},
    pretrain={"steps": 3, "batch": 7, "lr": 0.01},
    train={"steps": 4, "batch": 9, "lr": 0.01, "clip": 0.01, "strategy": "loop", "physical": 4},
)
stream = seeding.generator(0, "records")
images = Images(torch.randint(0, 256, (30, 1, 8, 8), generator=stream, dtype=torch.uint8), torch.arange(30) % 3)
task = Task((1, 8, 8), 3, 0, world.device, world)
synthesizer = Gan(gan, task) if sys.argv[2] == "gan" else Diffusion(diffusion, task)
account = Account(dataset="toy", relation="zero_out", epsilon=1e6, delta=1e-3, scopes={"train": 30})
plan = tuple(charge.at(1.0) for charge in synthesizer.plan(30))
ledger = Ledger.open(folder / "ledger.json", account)
# Only rank 0's noise may count: the other rank's source is another one.
vault = Vault(images, "train", ledger, plan, NoiseSource(5 + world.rank), folder, world=world)
synthesizer.query(vault, Quiet())
assert world.leads or not vault._noise.drawn
synthesizer.pretrain(images, Quiet())
synthesizer.train(vault, Quiet())
checkpoint.save(folder / "final.safetensors", synthesizer.state_dict())
assert world.share("from rank 0" if world.leads else "ignored") == "from rank 0"
world.leave()
# A thread of the group that lives on may abort the process when the interpreter ends.
threads = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
"""


def start(method, folder, root, rank=0, size=1, port=0):
    places = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **places, "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), method], env=environment)


@pytest.fixture(params=["diffusion", "gan"])
def results(request, tmp_path, root):
    port, method = free_port(), request.param
    two = (start(method, tmp_path / "two", root, rank, 2, port) for rank in (0, 1))
    processes = [start(method, tmp_path / "one", root), *two]
    assert [process.wait() for process in processes] == [0, 0, 0]
    states = [checkpoint.load(tmp_path / f / "final.safetensors") for f in ("one/0", "two/0", "two/1")]
    return [{(a, b): value for a, part in state.items() for b, value in part.items()} for state in states]


def test_two_processes_train_what_one_trains(results):
    alone, leader, follower = results
    assert all(torch.equal(leader[name], follower[name]) for name in leader)
    apart = torch.cat([(value - leader[name]).abs().flatten() for name, value in alone.items()])
    # Adam makes a whole step of a gradient that is nothing but rounding.
    assert float((apart < 1e-5).double().mean()) > 0.99
    assert float(apart.max()) < 0.01
