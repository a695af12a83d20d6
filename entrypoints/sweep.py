"""Search classifiers for one synthetic set, or synthesizers, and say what the search really cost."""

from typing import TYPE_CHECKING

import click

from dpib.data.catalog import Card
from dpib.errors import UserError
from entrypoints import cli
from entrypoints.launch import cores, fits

if TYPE_CHECKING:
    from dpib.config import Config
    from dpib.tracking import Store


@cli.entry
@click.option("--config", required=True, help="The sweep: a YAML file, or the name of one in configs/sweeps.")
@click.option("--generate_run", default="none", help="Classifier sweeps: the generate run (or main run) to judge.")
@click.option("--storage", default="none", help="Database of the study, for workers elsewhere; else DPIB_STORAGE.")
@click.option("--workers", default=1, type=click.IntRange(min=1), help="Processes on this machine.")
def main(config: str, generate_run: str, storage: str, workers: int, keys: tuple[str, ...]) -> None:
    """Run a sweep; `sweep.*` overrides its file, every other key the configuration of its trials."""
    from dpib.config import layered
    from dpib.config.compose import merge, typed
    from dpib.sweeps import modes
    from dpib.sweeps.job import Order
    from dpib.sweeps.launch import run_sweep
    from dpib.sweeps.spec import read_sweep
    from dpib.upstream import continue_from
    from entrypoints.storage import study_storage

    spec, overrides, base = read_sweep(config, cli.overrides(keys))
    store, url = cli.open_store(), study_storage(storage)
    given = typed(overrides, *([str(base["method"])] if "method" in base else []))
    run = cli.given(generate_run)
    if run is not None and spec.kind == "synthesizer":
        raise UserError("a synthesizer sweep makes its own images: leave generate_run out")
    if run is not None:
        # The file's own base describes the images that it would make; these are made already.
        chosen, card, images = continue_from(run, "generate", store, overrides)
        fits("workers", workers, cores(), chosen.oversubscribe)
        result = run_sweep(Order(spec, chosen, card, url, workers, images), store)
    else:
        chosen, card = layered(merge(base, given))
        fits("workers", workers, cores(), chosen.oversubscribe)
        modes.check(spec, card.name)
        made = _images(chosen, card, store) if spec.kind == "classifier" else None
        result = run_sweep(Order(spec, chosen, card, url, workers, made), store)
    cli.show("sweep", result)


def _images(config: "Config", card: Card, store: "Store") -> str:
    """Return a generate run for a classifier sweep that was given none; it is reused by the next."""
    from dpib.chain import run_before, run_generate, run_train

    trained = run_train(config, card, store, run_before(config, card, store).start())
    return run_generate(config, card, store, trained.run_id).run_id


if __name__ == "__main__":
    main()
