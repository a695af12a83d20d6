"""Faults planted in the privacy code, and which audit catches each.

    python -m benchmarks.audit_mutations

Each fault replaces a piece of the code that runs in production: of the noise, the sampler, the clipping, the vault or
the ledger. The same audits that find nothing on the sound code must find it. The table is printed as Markdown.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import click

from benchmarks import planted_faults as plant
from benchmarks import planted_queries as ask
from benchmarks.audited import counts, names, selections, steps, sums
from benchmarks.audited_queries import lineage, queries
from benchmarks.planted_faults import Patch
from dpib.errors import UserError
from dpib.privacy.audit.findings import Finding, failed

Fault = tuple[Callable[[], Iterator[list[Finding]]], Callable[[], list[Patch]]]

FAULTS: dict[str, Fault] = {
    "DP-SGD: noise off": (steps, lambda: plant.scaled(0.0)),
    "DP-SGD: half the noise (averaged over four ranks)": (steps, lambda: plant.scaled(0.5)),
    "DP-SGD: noise over the root of 2": (steps, lambda: plant.scaled(2**-0.5)),
    "DP-SGD: a tenth of the noise missing": (steps, lambda: plant.scaled(0.9)),
    "DP-SGD: noise scaled by 1/B": (steps, lambda: plant.scaled(1 / 40)),
    "DP-SGD: noise on half the rows": (steps, plant.half_the_rows),
    "DP-SGD: uniform noise of the right variance": (steps, plant.uniform),
    "DP-SGD: noise from a fixed key": (steps, plant.fixed_key),
    "DP-SGD: noise of the first step reused": (steps, plant.reused),
    "DP-SGD: no noise after a resume": (steps, plant.none_after_a_resume),
    "DP-SGD: noise divided among the processes": (steps, plant.divided_among_processes),
    "DP-SGD: a nonce comes again after 64 draws": (steps, lambda: plant.nonce_repeats(64)),
    "DP-SGD: a nonce comes again after 200 draws": (steps, lambda: plant.nonce_repeats(200)),
    "DP-SGD: a step's records come again after 64 steps": (steps, lambda: plant.mask_repeats(64)),
    "DP-SGD: a step's records come again after 200 steps": (steps, lambda: plant.mask_repeats(200)),
    "DP-SGD: pieces overlap by a record": (steps, plant.pieces_overlap),
    "DP-SGD: clipping off": (steps, plant.no_clipping),
    "DP-SGD: clipping layer by layer": (steps, plant.layer_by_layer),
    "DP-SGD: K draws clipped apart": (steps, plant.draws_clipped_apart),
    "DP-SGD: batch averaged before clipping": (steps, plant.averaged_before_clipping),
    "DP-SGD: draws of records mixed up": (steps, plant.draws_mixed),
    "DP-SGD: batch normalisation": (steps, plant.records_mixed),
    "DP-SGD: clip factor in bfloat16": (steps, plant.bf16_clipping),
    "DP-SGD: clip bound from the batch's median": (steps, plant.median_clipping),
    "DP-SGD: NaN record let through": (steps, plant.nan_let_through),
    "DP-SGD: shuffled batches": (steps, plant.shuffled),
    "DP-SGD: batches of fixed size": (steps, plant.fixed_size),
    "DP-SGD: sampling rate doubled": (steps, plant.rate_doubled),
    "DP-SGD: records chosen by a public seed": (steps, plant.public_sampler),
    "DP-SGD: divided by the private batch size": (steps, plant.private_divisor),
    "DP-SGD: one step more than charged": (steps, plant.one_step_more),
    "DP-SGD: charged for half the steps": (steps, plant.charged_for_half),
    "DP-SGD: not charged": (steps, plant.not_charged),
    "sum: noise off": (sums, lambda: plant.scaled(0.0)),
    "sum: half the noise": (sums, lambda: plant.scaled(0.5)),
    "sum: a tenth of the noise missing": (sums, lambda: plant.scaled(0.9)),
    "sum: noise divided by n twice": (sums, lambda: plant.scaled(1 / 500)),
    "sum: noise on half the rows": (sums, plant.half_the_rows),
    "sum: uniform noise of the right variance": (sums, plant.uniform),
    "sum: noise from a fixed key": (sums, plant.fixed_key),
    "sum: features longer than they say": (sums, lambda: plant.feature(plant.Longer)),
    "sum: mean by class": (sums, plant.mean_by_class),
    "sum: divided by the private count": (sums, plant.divided_by_count),
    "sum: chunks overlap by a record": (sums, plant.chunks_overlap),
    "several: key stream restarted at each release": (names, plant.restarted_at_each_release),
    "sum: drawn again under one charge": (sums, plant.drawn_again),
    "sum: not charged": (sums, plant.not_charged),
    "query: noise from a seeded generator": (queries, ask.seeded_noise),
    "query: votes not bounded": (queries, ask.votes_not_bounded),
    "query: sums over private counts": (queries, ask.sums_over_private_counts),
    "query: central images over private counts": (queries, ask.images_over_private_counts),
    "query: made by every process": (queries, ask.every_process_asks),
    "query: one noise for all its releases": (queries, ask.one_noise_for_all_releases),
    "query: every record in a sample": (queries, ask.every_record_in_a_sample),
    "query: one sample for all its releases": (queries, ask.one_sample_for_all_releases),
    "query: dropped from the ledger": (lineage, ask.dropped_from_the_ledger),
    "query: all but the last dropped from the ledger": (lineage, ask.history_overwritten),
    "query: a pretraining taken for one of another query": (lineage, ask.pretraining_of_any_query),
    "count: Gaussian noise off": (counts, lambda: plant.counts_without_noise("normal")),
    "count: Laplace noise off": (counts, lambda: plant.counts_without_noise("laplace")),
    "count: half the Laplace noise": (counts, lambda: plant.laplace_scaled(0.5)),
    "count: chunks overlap by a record": (counts, plant.chunks_overlap),
    "selection: noise off": (selections, lambda: plant.laplace_scaled(0.0)),
    "selection: half the noise": (selections, lambda: plant.laplace_scaled(0.5)),
    "selection: not charged": (selections, plant.not_charged),
}


@contextmanager
def planted(patches: list[Patch]) -> Iterator[None]:
    """Replace the named pieces of the privacy code inside the block."""
    with ExitStack() as stack:
        for owner, name, faulty in patches:
            stack.enter_context(mock.patch.object(owner, name, faulty))
        yield


def caught_by(name: str) -> str | None:
    """Return the layer and check that catch a fault, or None if nothing does."""
    audit, fault = FAULTS[name]
    with planted(fault()):
        try:
            for findings in audit():
                if wrong := failed(findings):
                    return f"{wrong[0].layer}: {wrong[0].check} ({wrong[0].value:.4g})"
        except UserError as error:
            return f"the engine itself: {error}"
    return None


@click.command()
def main() -> None:
    """Print which layer catches which fault, and in how many seconds."""
    begun = time.perf_counter()
    for audit in (steps, sums, queries, lineage, names, counts, selections):
        wrong = failed([finding for findings in audit() for finding in findings])
        assert not wrong, wrong
    print(f"Sound code: no alarm, all audits in {time.perf_counter() - begun:.1f} s\n")
    print("| fault | caught by | s |\n|---|---|---|")
    for name in FAULTS:
        begun = time.perf_counter()
        print(f"| {name} | {caught_by(name) or '**missed**'} | {time.perf_counter() - begun:.1f} |", flush=True)


if __name__ == "__main__":
    main()
