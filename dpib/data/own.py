"""The user's own images: a card made from an image folder, and kept beside what is prepared from it."""

from pathlib import Path

from dpib.atomic import write_text
from dpib.data import store
from dpib.data.catalog import CARDS, Card, Sizes, card_file, find_card, read_card
from dpib.data.folders import class_folders
from dpib.data.prepare import require_writable
from dpib.data.sources import read_source, require_source
from dpib.errors import UserError
from dpib.images import Images
from dpib.section import dump_yaml, validated

SIDE = 32


def card_for(
    name: str, source: Path | None, root: Path, side: int | None, gray: bool | None, replace: bool = False
) -> Card:
    """Return the card of a known data set, or write one for the user's own images in `source`, and prepare them.

    Args:
        name: of the data set.
        source: a folder of class folders or a zip archive of them.
        root: the data root.
        side: of the own images, in pixels; none: 32, or what they were prepared with.
        gray: turn them gray; none: no, or as they were prepared.
        replace: make the card of own images anew.

    Raises:
        UserError: when the name is unknown and `source` is no folder of class folders; when the data set is
            known and is not what `side`, `gray` and `source` say.
    """
    file = card_file(name, root)
    known = read_card(file) if file is not None else None
    own = file is not None and not file.is_relative_to(CARDS)
    if source is not None:
        require_source(source)
    if known is not None and (source is None or not replace or not own):
        _refuse_change(known, source, side, gray, own)
        return known
    if source is None:
        return find_card(name, root)
    require_writable(root)
    draft = _draft(name, source, side, gray, known)
    # Sizes are counted by reading once: unreadable images are found before anything is written.
    splits = read_source(draft, source, lambda _: None)
    n = {split: len(images) for split, images in splits.items()}
    version = 1 if known is None else known.version if _same(known, splits, root) else known.version + 1
    card = draft.model_copy(update={"sizes": Sizes(**n), "holdout": n["train"] // 10, "version": version})
    for split, images in splits.items():
        store.write_split(root, card, split, images)
    write_text(root / name / "card.yaml", dump_yaml(card.model_dump(mode="json")))
    return find_card(name, root)


def _draft(name: str, source: Path, side: int | None, gray: bool | None, known: Card | None) -> Card:
    c, h, _ = known.shape if known is not None else (3, SIDE, SIDE)
    c = c if gray is None else (1 if gray else 3)
    tree = {
        "name": name,
        "title": name,
        "shape": (c, h if side is None else side, h if side is None else side),
        "classes": class_folders(source),
        "sizes": {"train": 1, "test": 1},
        "source": {"kind": "folders"},
        "citation": "your own images",
        "licence": "your own",
        "homepage": "",
    }
    return validated(Card, tree, name)


def _same(card: Card, splits: dict[str, Images], root: Path) -> bool:
    try:
        return all(store.digest(store.read_split(root, card, split)) == store.digest(splits[split]) for split in splits)
    except UserError:
        return False


def _refuse_change(card: Card, source: Path | None, side: int | None, gray: bool | None, own: bool) -> None:
    c, h, _ = card.shape
    cure = "take another name" + (", or prepare it anew with -P source=<folder> -P replace=true" if own else "")
    if side not in (None, h) or gray not in (None, c == 1):
        raise UserError(f"{card.name} has {h} pixels, {'gray' if c == 1 else 'in colour'}: {cure}")
    if not own or source is None or (source / "train.npz").is_file():
        return
    classes = class_folders(source)
    if classes != card.classes:
        changed = sorted(set(classes) ^ set(card.classes))
        raise UserError(
            f"{card.name} was prepared from other class folders ({changed[0]!r} is in one of both alone): {cure}"
        )
