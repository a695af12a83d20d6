"""A DP-SGD step against the non-private step on the same batch and model, with peak memory.

    python -m benchmarks.dp_step --csv dp_step.csv

All sides run in one process and take turns, so that a busy machine slows all alike; a ratio is the median over
rounds of (side / non-private in the same round). Memory is measured in a process per side, above what the
model and the optimiser hold after a step.
"""

import csv
import ctypes
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch

from benchmarks.denoising import WORKLOADS
from benchmarks.dp_step_sides import NON_PRIVATE, Work, names, step
from benchmarks.turns import in_turns

TARGETS = {1: 1.35, 8: 1.15, 32: 1.1}
COLUMNS = ("K", "B", "side", "ms per step", "ratio", "target", "peak MB")


@click.command()
@click.option("--network", type=click.Choice(WORKLOADS), default="plain", help="plain, or of that profile of DPDM")
@click.option("--multiplicity", "-k", type=int, multiple=True, default=(1, 8, 32), help="noise draws per record")
@click.option("--rows", default=64, help="rows per step, B * K")
@click.option("--side", "only", multiple=True, help="sides beside the non-private one; default: all")
@click.option("--rounds", default=7)
@click.option("--threads", default=1)
@click.option("--physical", type=int, default=None, help="records at a time; default: found by timing")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", help="cpu: of all threads together")
@click.option("--device", default="cpu")
@click.option("--csv", "path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--memory/--no-memory", default=True, help="measure peak memory too, in a process per side")
@click.option("--memory-of", hidden=True, help="print the peak memory of one side and leave")
def main(
    network: str,
    multiplicity: tuple[int, ...],
    rows: int,
    only: tuple[str, ...],
    rounds: int,
    threads: int,
    physical: int | None,
    clock: str,
    device: str,
    path: Path | None,
    memory: bool,
    memory_of: str | None,
) -> None:
    """Time every strategy and plain Opacus hooks against the non-private step; print a Markdown table."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    if memory_of:
        click.echo(_peak(memory_of, Work(network, rows, multiplicity[0], physical, where)))
        return
    table = []
    for k in multiplicity:
        work = Work(network, rows, k, physical, where)
        sides = [NON_PRIVATE, *only] if only else names(k)
        times = _times(sides, work, rounds, clock)
        for side in sides:
            ratio = statistics.median(a / b for a, b in zip(times[side], times[NON_PRIVATE], strict=True))
            peak = f"{_peak_elsewhere(side, work, threads):.0f}" if memory else ""
            milliseconds = f"{1000 * statistics.median(times[side]):.0f}"
            table.append((k, work.records, side, milliseconds, f"{ratio:.2f}", TARGETS.get(k, ""), peak))
    click.echo(_markdown(table))
    if path:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *table])


def _times(sides: list[str], work: Work, rounds: int, clock: str) -> dict[str, list[float]]:
    """Return seconds per step of every side, `rounds` of each, taken in turns after one warm-up."""
    now = time.perf_counter if clock == "wall" else time.process_time
    return dict(zip(sides, in_turns([step(side, work) for side in sides], rounds, now), strict=True))


def _peak(side: str, work: Work) -> float:
    """Return the MB that a step needs above what stays between steps."""
    run = step(side, work)
    run()
    if work.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the first step freed must not count as held
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    run()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def _peak_elsewhere(side: str, work: Work, threads: int) -> float:
    options = {"--memory-of": side, "--network": work.network, "-k": work.multiplicity, "--rows": work.rows}
    options |= {"--threads": threads, "--device": work.device}
    if work.physical:
        options["--physical"] = work.physical
    words = [str(word) for pair in options.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dp_step", *words], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def _markdown(table: list[tuple[object, ...]]) -> str:
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *table]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
