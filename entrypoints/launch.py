"""Several processes on this machine: the same command again, N times, under torchrun's agent."""

import os
import sys

from dpib.config import Config
from dpib.errors import UserError


def leads() -> bool:
    """Return whether this process is rank 0 of its run; alone, it is."""
    return os.environ.get("RANK", "0") == "0"


def relaunched(config: Config, module: str) -> bool:
    """Run `python -m module` with this command line in `config.processes` processes, if there are to be several.

    Returns:
        False when there is nothing to launch: one process, or this is already one of several.

    Raises:
        UserError: when a process fails; the others are stopped then.
    """
    if config.processes == 1 or "WORLD_SIZE" in os.environ:
        return False
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Processes that each take all cores are slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.processes)))
    how = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port
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
    return True


def culprit(codes: dict[int, int]) -> int:
    """Return the first rank that failed by itself, given exit codes; negative ones are of ranks that were stopped."""
    return min(codes, key=lambda rank: (codes[rank] < 0, rank))
