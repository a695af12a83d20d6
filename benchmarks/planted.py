"""What a planted fault is."""

from typing import Any

Patch = tuple[Any, str, Any]
"""An object, the name of a part of it, and the faulty part."""
