"""Judge a synthetic set: a generate run's, or anybody's npz file."""

import click

from dpib.errors import UserError
from dpib.paths import written_path
from entrypoints import cli


@cli.entry
@click.option("--generate_run", default="none", help="The generate run (or main run) to judge.")
@click.option("--gen", default="none", help="An npz file with x and y; needs --dataset.")
def main(generate_run: str, gen: str, keys: tuple[str, ...]) -> None:
    """Evaluate utility and fidelity; `eval.*` may be overridden."""
    from dpib.config import compose
    from dpib.pipeline import run_evaluate
    from dpib.stages.generate import GEN
    from dpib.upstream import continue_from, file_digest

    given, store = cli.overrides(keys), cli.open_store()
    run, file = cli.given(generate_run), cli.given(gen)
    if (run is None) == (file is None):
        raise UserError("give either -P generate_run=<run id> or -P gen=<file.npz> -P dataset=<data set>")
    if run is not None:
        config, card, run_id = continue_from(run, "generate", store, given)
        result = run_evaluate(config, card, store, store.fetch(run_id, str(GEN)), run_id)
    else:
        assert file is not None
        if "dataset" not in given:
            raise UserError("say which data set the file imitates: -P dataset=<data set>")
        path = written_path(file)
        digest = file_digest(path)
        config, card = compose({"note": path.stem[:200], **given})
        result = run_evaluate(config.model_copy(update={"method": "file"}), card, store, path, digest)
    cli.show("evaluate", result)


if __name__ == "__main__":
    main()
