"""Public and sensitive images are never the same: what is taken as public is compared with what is protected."""

from pathlib import Path

from dpib.data.catalog import Card, find_card
from dpib.errors import UserError
from dpib.images import Images, set_digest
from dpib.paths import written_path
from dpib.privacy.ledger import Public
from dpib.public import read_public
from dpib.sensitive import Sensitive


def refuse_alike(name: str, card: Card, root: Path) -> None:
    """Refuse a public set that goes by the sensitive one's name, card or folder; reads no image.

    Raises:
        UserError: when it does.
    """
    if _alike(name, card, root):
        raise UserError(
            f"{name} is the sensitive data set itself: what is learnt from it without noise protects nobody; "
            "take other images as public"
        )


def checked(source: Public, sensitive: Sensitive, card: Card, configured_root: str | None, declared: bool) -> Public:
    """Return `source` as the ledger will hold it, after comparing it with the sensitive images.

    Args:
        source: what was taken as public.
        sensitive: what is to be protected.
        card: its card.
        configured_root: where public data sets are looked for.
        declared: the user says that images may be in both, and that the statement shall tell.

    Raises:
        UserError: when both are the same set, or share more than a handful of images and nobody said so.
    """
    if sensitive.is_set(source.digest):
        raise UserError(
            f"{source.name} holds exactly the images of {card.name}: what is learnt from them without noise "
            "protects nobody; take other images as public"
        )

    def read() -> Images | None:
        try:
            images = read_public(source.name, card.shape, configured_root)
        except UserError:
            return None  # another machine had it, under a name that says nothing here
        return images if set_digest(images) == source.digest else None

    shared = sensitive.overlaps(source.digest, read)
    if shared and not declared:
        raise UserError(
            f"some images of {card.name} are in {source.name} too, which is taken as public: leave them out there, or "
            "give -P public_overlap=declared, and the statement says that these images are not protected"
        )
    return source.model_copy(update={"declared": bool(shared), "compared": shared is not None})


def absolute(name: str) -> str:
    """Return a public folder's name as it is found from everywhere on this machine; any other name as it is."""
    folder = written_path(name)
    return str(folder.resolve()) if folder.is_dir() else name


def _alike(name: str, card: Card, root: Path) -> bool:
    folder = written_path(name)
    if folder.is_dir():
        return folder.resolve() == (root / card.name).resolve()
    try:
        return find_card(name, root).name == card.name
    except UserError:
        return False
