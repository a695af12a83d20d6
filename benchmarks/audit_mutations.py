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

from benchmarks import planted_clipping as clipping
from benchmarks import planted_features as maps
from benchmarks import planted_gan as pairs
from benchmarks import planted_noise as noise
from benchmarks import planted_queries as ask
from benchmarks import planted_sampling as sampling
from benchmarks.audited import counts, names, selections, steps, sums
from benchmarks.audited_features import features, per_step
from benchmarks.audited_gan import gan
from benchmarks.audited_queries import lineage, queries
from benchmarks.planted import Patch
from dpib.errors import UserError
from dpib.privacy.audit.findings import Finding, failed

Fault = tuple[Callable[[], Iterator[list[Finding]]], Callable[[], list[Patch]]]

FAULTS: dict[str, Fault] = {
    "DP-SGD: noise off": (steps, lambda: noise.scaled(0.0)),
    "DP-SGD: half the noise (averaged over four ranks)": (steps, lambda: noise.scaled(0.5)),
    "DP-SGD: noise over the root of 2": (steps, lambda: noise.scaled(2**-0.5)),
    "DP-SGD: a tenth of the noise missing": (steps, lambda: noise.scaled(0.9)),
    "DP-SGD: noise scaled by 1/B": (steps, lambda: noise.scaled(1 / 40)),
    "DP-SGD: noise on half the rows": (steps, noise.half_the_rows),
    "DP-SGD: uniform noise of the right variance": (steps, noise.uniform),
    "DP-SGD: noise from a fixed key": (steps, noise.fixed_key),
    "DP-SGD: noise of the first step reused": (steps, noise.reused),
    "DP-SGD: no noise after a resume": (steps, noise.none_after_a_resume),
    "DP-SGD: noise divided among the processes": (steps, noise.divided_among_processes),
    "DP-SGD: a nonce comes again after 64 draws": (steps, lambda: noise.nonce_repeats(64)),
    "DP-SGD: a nonce comes again after 200 draws": (steps, lambda: noise.nonce_repeats(200)),
    "DP-SGD: one nonce for all blocks of a step's noise": (steps, noise.one_nonce_for_all_blocks),
    "DP-SGD: two records with one counter": (steps, sampling.two_records_with_one_counter),
    "DP-SGD: a step's records come again after 64 steps": (steps, lambda: sampling.mask_repeats(64)),
    "DP-SGD: a step's records come again after 200 steps": (steps, lambda: sampling.mask_repeats(200)),
    "DP-SGD: pieces overlap by a record": (steps, clipping.pieces_overlap),
    "DP-SGD: clipping off": (steps, clipping.no_clipping),
    "DP-SGD: clipping layer by layer": (steps, clipping.layer_by_layer),
    "DP-SGD: K draws clipped apart": (steps, clipping.draws_clipped_apart),
    "DP-SGD: batch averaged before clipping": (steps, clipping.averaged_before_clipping),
    "DP-SGD: draws of records mixed up": (steps, clipping.draws_mixed),
    "DP-SGD: batch normalisation": (steps, clipping.records_mixed),
    "DP-SGD: clip factor in bfloat16": (steps, clipping.bf16_clipping),
    "DP-SGD: clipped and summed in bfloat16": (steps, clipping.clipped_in_bf16),
    "DP-SGD: clip bound from the batch's median": (steps, clipping.median_clipping),
    "DP-SGD: NaN record let through": (steps, clipping.nan_let_through),
    "DP-SGD: shuffled batches": (steps, sampling.shuffled),
    "DP-SGD: batches of fixed size": (steps, sampling.fixed_size),
    "DP-SGD: sampling rate doubled": (steps, sampling.rate_doubled),
    "DP-SGD: records chosen by a public seed": (steps, sampling.public_sampler),
    "DP-SGD: divided by the private batch size": (steps, sampling.private_divisor),
    "DP-SGD: one step more than charged": (steps, sampling.one_step_more),
    "DP-SGD: charged for half the steps": (steps, sampling.charged_for_half),
    "DP-SGD: not charged": (steps, sampling.not_charged),
    "sum: noise off": (sums, lambda: noise.scaled(0.0)),
    "sum: half the noise": (sums, lambda: noise.scaled(0.5)),
    "sum: a tenth of the noise missing": (sums, lambda: noise.scaled(0.9)),
    "sum: noise divided by n twice": (sums, lambda: noise.scaled(1 / 500)),
    "sum: noise on half the rows": (sums, noise.half_the_rows),
    "sum: uniform noise of the right variance": (sums, noise.uniform),
    "sum: noise from a fixed key": (sums, noise.fixed_key),
    "sum: features longer than they say": (sums, lambda: clipping.feature(clipping.Longer)),
    "sum: mean by class": (sums, clipping.mean_by_class),
    "sum: divided by the private count": (sums, clipping.divided_by_count),
    "sum: chunks overlap by a record": (sums, clipping.chunks_overlap),
    "several: key stream restarted at each release": (names, noise.restarted_at_each_release),
    "sum: drawn again under one charge": (sums, noise.drawn_again),
    "sum: not charged": (sums, sampling.not_charged),
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
    "embedding: gradients not normalised": (features, maps.not_normalised),
    "embedding: copies of the last layer left out of the norm": (features, maps.copies_scaled_after_the_norm),
    "embedding: joined maps each of norm 1": (features, maps.maps_each_of_norm_one),
    "embedding: counts beside the norm": (features, maps.counts_beside_the_norm),
    "embedding: a step's sum without its noise": (per_step, maps.sum_without_noise),
    "embedding: one noise for all steps": (per_step, maps.noise_drawn_once),
    "embedding: a step's records of a fixed number": (per_step, maps.fixed_size),
    "embedding: every record in every step": (per_step, ask.every_record_in_a_sample),
    "embedding: one sample for all steps": (per_step, ask.one_sample_for_all_releases),
    "GAN: an image drawn depends on those drawn beside it": (gan, pairs.drawn_together),
    "GAN: real and generated image clipped apart": (gan, pairs.halves_clipped_apart),
    "GAN: the generator sees the images": (gan, pairs.generator_sees_the_images),
    "count: Gaussian noise off": (counts, lambda: noise.counts_without_noise("normal")),
    "count: Laplace noise off": (counts, lambda: noise.counts_without_noise("laplace")),
    "count: half the Laplace noise": (counts, lambda: noise.laplace_scaled(0.5)),
    "count: chunks overlap by a record": (counts, clipping.chunks_overlap),
    "selection: noise off": (selections, lambda: noise.laplace_scaled(0.0)),
    "selection: half the noise": (selections, lambda: noise.laplace_scaled(0.5)),
    "selection: not charged": (selections, sampling.not_charged),
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
    for audit in (steps, sums, queries, features, per_step, gan, lineage, names, counts, selections):
        wrong = failed([finding for findings in audit() for finding in findings])
        assert not wrong, wrong
    print(f"Sound code: no alarm, all audits in {time.perf_counter() - begun:.1f} s\n")
    print("| fault | caught by | s |\n|---|---|---|")
    for name in FAULTS:
        begun = time.perf_counter()
        print(f"| {name} | {caught_by(name) or '**missed**'} | {time.perf_counter() - begun:.1f} |", flush=True)


if __name__ == "__main__":
    main()
