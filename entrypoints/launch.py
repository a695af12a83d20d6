"""Several processes on this machine: the same command again, N times, under torchrun's agent."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dpib import lifeline
from dpib.errors import UserError

if TYPE_CHECKING:
    from dpib.config import Config

ROOT = Path(__file__).resolve().parents[1]


def leads() -> bool:
    """Return whether this process is rank 0 of its run; alone, it is."""
    return os.environ.get("RANK", "0") == "0"


def relaunched(config: "Config", module: str) -> bool:
    """Run `python -m module` with this command line in `config.processes` processes, if there are to be several.

    Returns:
        False when there is nothing to launch: one process, or this is already one of several.

    Raises:
        UserError: when more are asked for than there are GPUs or cores, or a process fails; the others are stopped
            then.
        KeyboardInterrupt: when this process is asked to end, and has stopped the others.
    """
    if config.processes == 1 or "WORLD_SIZE" in os.environ:
        return False
    import torch

    gpus = 0 if config.device == "cpu" else torch.cuda.device_count()
    fits("processes", config.processes, gpus or cores(), config.oversubscribe)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Processes that each take all cores are slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // config.processes)))
    os.environ[lifeline.LAUNCHER] = str(os.getpid())
    # The project is not installed, and this may be another folder than the project's.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    how = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a free port
        local_addr="127.0.0.1",  # the machine's own name need not resolve
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(how, sys.executable)("-m", module, *sys.argv[1:])
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        rank = culprit(codes)
        raise UserError(
            f"process {rank} of {config.processes} failed with exit code {codes[rank]}; the others were stopped"
        ) from None
    except SignalException:
        raise KeyboardInterrupt from None
    finally:
        del os.environ[lifeline.LAUNCHER]
    return True


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fits(key: str, asked: int, room: int, oversubscribe: bool) -> None:
    """Refuse more processes than there is room for.

    Raises:
        UserError: with the number that fits.
    """
    if asked > room and not oversubscribe:
        raise UserError(
            f"{key}={asked}, but this machine has room for {room}: give {key}={room}, or oversubscribe=true if you must"
        )


def culprit(codes: dict[int, int]) -> int:
    """Return the first rank that failed by itself, given exit codes; negative ones are of ranks that were stopped."""
    return min(codes, key=lambda rank: (codes[rank] < 0, rank))
