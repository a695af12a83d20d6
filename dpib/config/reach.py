"""Which of the package's code a result depends on: what its modules import, and what those import."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# How a configuration is read decides nothing beyond the values that were read, and these are in a fingerprint already.
_APART = ("dpib.config", "dpib.section", "dpib.errors", "dpib.registry")


def reach_digest(modules: Iterable[str]) -> str:
    """Return the SHA-256 of the code that `modules` of this package reach, themselves included.

    Comments and docstrings do not count.
    """
    return _digest(reached(modules))


def source_digest() -> str:
    """Return the same of all the package's code."""
    return _digest(modules())


def modules() -> set[str]:
    """Return the names of all modules of the package."""
    files = (file.relative_to(_PACKAGE.parent).with_suffix("") for file in _PACKAGE.rglob("*.py"))
    return {".".join(file.parts).removesuffix(".__init__") for file in files}


def _digest(modules: Iterable[str]) -> str:
    told = "".join(f"{module}:{_meaning(module)}\n" for module in sorted(modules))
    return hashlib.sha256(told.encode()).hexdigest()


def reached(modules: Iterable[str]) -> set[str]:
    """Return the names of the package's modules that `modules` import, in any function and at any remove."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or any(module == apart or module.startswith(f"{apart}.") for apart in _APART):
            continue
        found.add(module)
        waiting += _imports(module)
    return found


def _file(module: str) -> Path | None:
    path = _PACKAGE.parent.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    assert file is not None, module
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # What is imported from a package may be a module of it, or a name in its __init__.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(sorted(name for name in names if name.startswith(_PACKAGE.name) and _file(name) is not None))


@cache
def _meaning(module: str) -> str:
    """Return the SHA-256 of a module without its comments and docstrings."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
