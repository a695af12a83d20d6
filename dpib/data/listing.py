"""What lies in an image folder or in zip archives: found and sorted by split, and not yet decoded."""

import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from dpib.errors import UserError

_RAW = (".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".pbm")  # may shrink as far as a zip can
_SHRUNK = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp")
SUFFIXES = (*_SHRUNK, *_RAW)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
MAX_BYTES = 128 * 2**20  # of one image
_MAX_RATIO = 200  # of an image's size to its compressed size; PNG and JPEG hardly shrink
_MAX_MEMBERS = 10_000_000
_LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Member:
    """One image: its name below the source, its name below the folders of all classes, and where its bytes are."""

    name: PurePosixPath
    below: PurePosixPath
    place: Path | zipfile.Path


@dataclass(frozen=True)
class Listing:
    """The images of a source by name, all its folders, and how many other files of which kind it holds."""

    images: list[Member]
    folders: frozenset[PurePosixPath]
    others: Counter[str]

    def skipped(self) -> str | None:
        """Say in one line what is no image by its name, or None where all are."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.others.most_common())
        return f"left out {self.others.total()} files that are no images by their names: {kinds}" if kinds else None

    @cached_property
    def _children(self) -> dict[PurePosixPath, list[str]]:
        found: dict[PurePosixPath, list[str]] = {}
        for folder in sorted(self.folders):
            found.setdefault(folder.parent, []).append(folder.name)
        return found

    @cached_property
    def root(self) -> PurePosixPath:
        """The folder of the splits, or of the classes where there are none: below folders that only wrap it."""
        holding = {member.name.parent for member in self.images}
        root = PurePosixPath()
        while True:
            inside = self._children.get(root, [])
            if len(inside) != 1 or root in holding or inside[0].lower() in SPLITS:
                return root
            if root / inside[0] not in self._children:
                return root
            root = root / inside[0]

    @cached_property
    def splits(self) -> dict[str, str]:
        """The folders below the root that name a split, as folder -> train, test or val.

        A folder called `train` beside other classes, with images of its own, is a class: trains.
        """
        tops = self._children.get(self.root, [])
        named = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
        if len(named) == len(tops):
            return named
        holding = {member.name.parent for member in self.images}
        return {top: split for top, split in named.items() if self.root / top not in holding}

    def parts(self) -> dict[str, list[Member]]:
        """Return the images by split, each `below` its split's folder; those of no split under the name ''."""
        found: dict[str, list[Member]] = {split: [] for split in self.splits.values()}
        for member in self.images:
            inside = member.name.relative_to(self.root)
            split = self.splits.get(inside.parts[0], "")
            below = PurePosixPath(*inside.parts[1:]) if split else inside
            found.setdefault(split, []).append(replace(member, below=below))
        return found

    def classes(self) -> list[str]:
        """Return the names of the class folders below the root, or below the folders of all splits; sorted.

        Raises:
            UserError: when folders stand beside those of the splits, or a class folder holds no image.
        """
        tops = self._children.get(self.root, [])
        beside = sorted(set(tops) - set(self.splits))
        if self.splits and beside:
            raise UserError(
                f"beside folder {next(iter(self.splits))!r}, a split, stands {beside[0]!r}: put every class folder "
                "below train or test, or rename what is no split"
            )
        names = {name for top in self.splits for name in self._children.get(self.root / top, [])}
        names = names if self.splits else set(tops)
        filled = {member.below.parts[0] for part in self.parts().values() for member in part}
        empty = sorted(names - filled)
        if empty:
            raise UserError(f"folder {empty[0]!r} holds no image{self.but()}: fill it or take it away")
        return sorted(names)

    def but(self) -> str:
        """Return what to add to a sentence that says that images are missing."""
        skipped = self.skipped()
        return f" (dpib {skipped})" if skipped else ""


def listed(source: Path, archives: Sequence[Path] = ()) -> Listing:
    """Return what lies below the folder `source`, or in `archives` where there are any; sorted by name.

    Hidden files and folders are passed over, symbolic links followed.

    Raises:
        UserError: for a folder that cannot be read, a link that leads nowhere or in a circle, a zip bomb.
    """
    images: list[Member] = []
    folders: set[PurePosixPath] = set()
    others: Counter[str] = Counter()
    inside = (entry for archive in archives for entry in _zipped(archive))
    found = inside if archives else _walk(source, PurePosixPath(), ())
    for name, place in found:
        folders.update(parent for parent in name.parents if parent.parts)
        if place is None:
            folders.add(name)
        elif name.suffix.lower() in SUFFIXES:
            images.append(Member(name, name, place))
        else:
            others[name.suffix.lower() or "without an ending"] += 1
    return Listing(sorted(images, key=lambda member: member.name.as_posix()), frozenset(folders), others)


_Entry = tuple[PurePosixPath, Path | zipfile.Path | None]


def _walk(folder: Path, inside: PurePosixPath, above: tuple[Path, ...]) -> Iterator[_Entry]:
    """Yield files, and folders without a place."""
    try:
        real, content = folder.resolve(), sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror})") from None
    if real in above:
        raise UserError(f"{folder} is a symbolic link to a folder that holds it: take it away")
    for path in content:
        name = inside / path.name
        if _is_litter(name):
            continue
        if path.is_dir():
            yield name, None
            yield from _walk(path, name, (*above, real))
            continue
        if path.suffix.lower() in SUFFIXES and not path.is_file():
            what = "a symbolic link that leads nowhere" if path.is_symlink() else "no file of bytes"
            raise UserError(f"{path} is {what}: take it away")
        yield name, path


def _zipped(archive: Path) -> Iterator[_Entry]:
    try:
        content = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive} is not a readable zip archive ({error}): fetch it again") from None
    if len(content.infolist()) > _MAX_MEMBERS:
        raise UserError(f"{archive} has more than {_MAX_MEMBERS} entries, which is no set of images")
    for info in content.infolist():
        name = PurePosixPath(info.filename)
        if _is_litter(name):
            continue
        if info.is_dir():
            yield name, None
            continue
        if name.suffix.lower() in SUFFIXES:
            _refuse_bomb(info, archive)
        yield name, zipfile.Path(content, info.filename)


def _is_litter(name: PurePosixPath) -> bool:
    return any(part.startswith(".") or part in _LITTER for part in name.parts)


def _refuse_bomb(info: zipfile.ZipInfo, archive: Path) -> None:
    """Refuse an entry that would unpack to far more than an image, or that is a link."""
    shrunk = PurePosixPath(info.filename).suffix.lower() in _SHRUNK
    if info.file_size > MAX_BYTES or (shrunk and info.file_size > _MAX_RATIO * max(1, info.compress_size)):
        raise UserError(
            f"{archive}: {info.filename} unpacks from {info.compress_size} to {info.file_size} bytes: no image does"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive}: {info.filename} is a symbolic link, which dpib does not follow")
