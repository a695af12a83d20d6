"""What a stage goes on from: an earlier run, with its configuration, or a file."""

from pathlib import Path

from dpib.config import Config, from_text
from dpib.config.fingerprint import stage_slice
from dpib.config.kinds import KINDS
from dpib.config.schema import flatten
from dpib.data.catalog import Card
from dpib.errors import UserError, absence
from dpib.paths import file_hash
from dpib.tracking import Store


def continue_from(run: str, stage: str, store: Store, overrides: dict[str, str]) -> tuple[Config, Card, str]:
    """Return the configuration of an upstream run with `overrides`, its card, and the run's own id.

    Raises:
        UserError: when the run is of another stage or unfinished, or an override would change what it did.
    """
    run_id = find_stage(run, stage, store)
    text = store.fetch(run_id, "config.yaml").read_text()
    config, card = from_text(text, overrides, f"config of run {run_id}")
    earlier, _ = from_text(text, {}, f"config of run {run_id}")
    for name in KINDS[stage].before:
        before, after = (flatten(stage_slice(name, c)) for c in (earlier, config))
        changed = [key for key in after if before.get(key) != after[key]]
        if changed:
            raise UserError(
                f"{changed[0]} belongs to the {name} stage, which run {run_id} did with {before.get(changed[0])}: "
                f"leave it out, or start again from {name}"
            )
    return config, card, run_id


def find_stage(run: str, stage: str, store: Store) -> str:
    """Return the id of the `stage` run that `run` is, or that the main run `run` holds.

    Raises:
        UserError: when it is neither.
    """
    run_id = store.follow(run)
    found = store.tags(run_id).get("dpib.stage")
    if found == "main":
        run_id = store.tags(run_id).get(f"dpib.run.{stage}", run_id)
        found = store.tags(run_id).get("dpib.stage")
    if found != stage:
        raise UserError(f"run {run} is {f'a {found} run' if found else 'no run of dpib'}, a {stage} run is needed")
    return run_id


def file_digest(path: Path, key: str = "gen=<file.npz>") -> str:
    """Return the SHA-256 of a file.

    Raises:
        UserError: when it does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path} {absence(path)}: give -P {key}")
    return file_hash(path)
