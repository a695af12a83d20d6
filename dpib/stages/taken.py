"""What a stage took as public, by its checkpoints, and whether that may stand beside the sensitive images."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dpib import checkpoint
from dpib.data.catalog import data_root
from dpib.overlap import checked, refuse_alike
from dpib.paths import file_hash
from dpib.privacy.ledger import SOURCES, Account, Public
from dpib.privacy.lineage import merged
from dpib.sensitive import Sensitive
from dpib.stages.context import Context


def sources(file: Path) -> list[Public]:
    """Return what a checkpoint learnt from as public; of one that does not say it, its own name and digest."""
    ledger, text = checkpoint.text(file, "ledger"), checkpoint.text(file, "public")
    if ledger is not None:
        return Account.parse(ledger).public
    return SOURCES.validate_json(text) if text is not None else [from_file(file)]


def from_file(file: Path) -> Public:
    """Return a file from outside as a source of which nothing more is known."""
    return Public(name=f"checkpoint {file.name}", digest=file_hash(file))


def together(files: Iterable[Path]) -> list[Public]:
    """Return what several checkpoints took as public, each source once."""
    found: list[Public] = []
    for file in files:
        found = merged(found, sources(file))
    return found


def compared(context: Context, sensitive: Sensitive, found: Sequence[Public]) -> list[Public]:
    """Return sources as a ledger holds them, after comparing each with the sensitive images.

    Raises:
        UserError: when one is the sensitive set, or shares images with it and nobody said so.
    """
    config = context.config
    for source in found:
        refuse_alike(source.name, context.card, data_root(config.data_root))
    declared = config.public_overlap is not None
    public = [checked(source, sensitive, context.card, config.data_root, declared) for source in found]
    for source in public:
        if not source.compared:
            context.log.say(f"{source.name}, taken as public, is not at hand to be compared with these images")
    return public
