"""Typed, frozen configuration: its schema, its composition from YAML layers, and its fingerprint."""

from dpib.config.compose import compose, from_text, layered, overlaid
from dpib.config.schema import Config

__all__ = ["Config", "compose", "from_text", "layered", "overlaid"]
