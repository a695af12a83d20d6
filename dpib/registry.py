"""Names of parts and where their code is. Nothing is imported until it is used.

A part from outside the package is named by its file: ``path/to/file.py:Attribute``.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from dpib.errors import UserError, absence, nearest
from dpib.section import Section, checked, clipped

PARTS: dict[str, dict[str, str]] = {
    "synthesizer": {
        "mean_embedding": "dpib.methods.kernel:MeanEmbedding",
        "diffusion": "dpib.methods.diffusion:Diffusion",
        "gan": "dpib.methods.gan:Gan",
    },
    "lesson": {
        "public": "dpib.diffusion.lessons.public:PublicLesson",
        "selected": "dpib.diffusion.lessons.selected:SelectedLesson",
        "central": "dpib.diffusion.lessons.central:CentralLesson",
        "frequency": "dpib.diffusion.lessons.frequency:FrequencyLesson",
    },
    "features": {
        "fourier": "dpib.kernels.fourier:FourierFeatures",
        "ntk": "dpib.kernels.ntk:NtkFeatures",
        "conv_ntk": "dpib.kernels.conv_ntk:ConvNtkFeatures",
        "joined": "dpib.kernels.joined:JoinedFeatures",
    },
    "part": {
        "classifier": "dpib.parts.classifier:Classifier",
    },
    "metric": {
        "fid": "dpib.metrics.fidelity:fid",
        "kid": "dpib.metrics.fidelity:kid",
        "precision_recall": "dpib.metrics.fidelity:precision_recall",
        "inception_score": "dpib.metrics.fidelity:inception_score",
    },
}

_METHODS = ("plan", "query", "pretrain", "train", "generate", "class_proportions", "state_dict", "load_state_dict")
_NEEDS = {
    "lesson": ("reads_public", "charges", "query", "images"),
    "features": ("map",),
    "part": ("fit", "network", "state_dict", "load_state_dict"),
}
_STAGES = {"query", "pretrain", "train", "generate"}


def load(kind: str, name: str) -> Any:
    """Return the part `name` of `kind`, importing it now.

    Raises:
        UserError: when there is no such name, file or attribute.
    """
    known = PARTS[kind]
    if name not in known and ".py:" not in name:
        raise UserError(f"unknown {kind} {clipped(repr(name))}{nearest(name, known)}; known: {', '.join(known)}")
    place, _, attribute = known.get(name, name).rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    part = getattr(module, attribute, None)
    if part is None:
        raise UserError(f"{place} has no {attribute!r}")
    if not callable(part):
        raise UserError(f"{name} is a {type(part).__name__}, not a {kind}: see docs/extend.md")
    return part


def settings(synthesizer: str) -> type[Section]:
    """Return what declares the keys of a synthesizer.

    Raises:
        UserError: when it is no synthesizer, naming what it lacks.
    """
    maker = load("synthesizer", synthesizer)
    declared = _declared(maker)
    lacks = [name for name in _METHODS if not callable(getattr(maker, name, None))]
    reads = getattr(maker, "reads", None)
    if not isinstance(reads, Mapping) or not set(reads) <= _STAGES:
        lacks.insert(0, "reads by stage")
    if declared is not None and not lacks:
        return declared
    if declared is None:
        lacks.insert(0, "Settings of type Section")
    raise UserError(f"{synthesizer} is no synthesizer, it lacks {', '.join(lacks)}: see docs/extend.md")


def _declared(maker: Any) -> type[Section] | None:
    """Return what declares a part's keys, or None where it is no Section."""
    declared = getattr(maker, "Settings", None)
    return declared if isinstance(declared, type) and issubclass(declared, Section) else None


def chosen(kind: str) -> Callable[[Any], Section]:
    """Return what reads a section whose key `kind` names a part of `kind`: by the `Settings` of that part."""

    def read(value: Any) -> Section:
        if isinstance(value, Section):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise ValueError(f"give kind: one of {', '.join(PARTS[kind])}")
        try:
            maker = load(kind, value["kind"])
        except UserError as error:
            raise ValueError(str(error)) from None
        declared = _declared(maker)
        lacks = [name for name in _NEEDS.get(kind, ()) if not hasattr(maker, name)]
        if declared is None:
            lacks.insert(0, "Settings of type Section")
        if declared is None or lacks:
            raise ValueError(f"{value['kind']} is no {kind}, it lacks {', '.join(lacks)}: see docs/extend.md")
        found = checked(declared, value)
        if isinstance(found, list):
            raise ValueError(f"{value['kind']}: {'; '.join(found)}")
        return found

    return read


def modules(words: Set[str]) -> set[str]:
    """Return the modules of those parts of the package, of any kind, that go by one of these names."""
    return {place.partition(":")[0] for known in PARTS.values() for name, place in known.items() if name in words}


def outside_file(name: str) -> Path | None:
    """Return the file behind a part that lives outside the package, or None."""
    return Path(name.rpartition(":")[0]) if ".py:" in name else None


def _from_file(path: Path) -> Any:
    module_name = f"dpib_outside_{path.stem}"
    loaded = sys.modules.get(module_name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path.resolve()):
        return loaded
    if not path.is_file():
        raise UserError(f"{path} {absence(path)}: name a part from outside as path/to/file.py:Attribute")
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[module_name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        where = "".join(f", line {frame.lineno}" for frame in _frames(error, path.resolve()))
        raise UserError(
            f"{path} cannot be imported ({type(error).__name__}{where}: {clipped(str(error))}): mend it"
        ) from error
    return module


def _frames(error: BaseException, path: Path) -> list[traceback.FrameSummary]:
    """Return the innermost line of the file that an error went through, if it did; a syntax error says its own."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)][-1:]
