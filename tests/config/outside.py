"""The source of a synthesizer that somebody else may have written."""

RECIPE = """
from dpib.section import Section


class Prompt(Section):
    words: str
    last: str | None = "x"


class Settings_(Section):
    prompt: Prompt


class M:
    Settings = Settings_
    reads = {"train": ("prompt",)}

    def plan(self, n): ...
    def query(self, vault, log): ...
    def pretrain(self, public, log): ...
    def train(self, vault, log): ...
    def generate(self, labels, generator): ...
    def class_proportions(self): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...


class Half:
    Settings = Settings_

    def plan(self, n): ...


answer = 42
"""
