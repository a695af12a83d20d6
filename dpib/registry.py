"""Names of parts and where their code is. Nothing is imported until it is used.

A part from outside the package is named by its file: ``path/to/file.py:Attribute``.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from dpib.errors import UserError, nearest

PARTS: dict[str, dict[str, str]] = {
    "synthesizer": {
        "mean_embedding": "dpib.methods.kernel:MeanEmbedding",
        "diffusion": "dpib.methods.diffusion:Diffusion",
    },
    "metric": {
        "fid": "dpib.metrics.fidelity:fid",
        "kid": "dpib.metrics.fidelity:kid",
        "precision_recall": "dpib.metrics.fidelity:precision_recall",
        "inception_score": "dpib.metrics.fidelity:inception_score",
    },
}


def load(kind: str, name: str) -> Any:
    """Return the part `name` of `kind`, importing it now.

    Raises:
        UserError: when there is no such name, file or attribute.
    """
    known = PARTS[kind]
    if name not in known and ".py:" not in name:
        raise UserError(f"unknown {kind} {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    place, _, attribute = known.get(name, name).rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UserError(f"{place} has no {attribute!r}") from None


def outside_file(name: str) -> Path | None:
    """Return the file behind a part that lives outside the package, or None."""
    return Path(name.rpartition(":")[0]) if ".py:" in name else None


def _from_file(path: Path) -> Any:
    module_name = f"dpib_outside_{path.stem}"
    loaded = sys.modules.get(module_name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path.resolve()):
        return loaded
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a part from outside as path/to/file.py:Attribute")
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
