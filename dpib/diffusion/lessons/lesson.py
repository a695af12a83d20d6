"""What a lesson is to the diffusion methods: all that one must read to add one (see docs/extend.md)."""

from typing import Any, ClassVar, Protocol

from pydantic import Field

from dpib.checkpoint import State
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import Section
from dpib.synthesizer import Log


class LessonSettings(Section):
    """What every lesson has; `kind` is its name in the registry, or `path/to/file.py:Class`."""

    kind: str
    fit: dict[str, Any] = Field(default={}, description="what is not as pretrain.* says, e.g. {steps: 100, batch: 50}")


class Lesson(Protocol):
    """Images that a denoiser learns from before any private gradient, and the private releases that they take.

    It is constructed as ``Lesson(settings, task, name)``. `name` is its own in the curriculum: a charge takes it, or
    begins with it. `reads_public` says whether it needs public images.
    """

    Settings: ClassVar[type[LessonSettings]]
    reads_public: ClassVar[bool]

    def charges(self, n: int) -> tuple[Charge, ...]:
        """Return the charges of its releases from n records, of stage `query`. Pure: reads no data."""

    def query(self, vault: Vault, log: Log) -> State:
        """Make these releases, and return what `images` needs of them."""

    def images(self, released: State, public: Images | None, log: Log) -> Images:
        """Return the images to learn from, with the labels of the sensitive classes: post-processing.

        Args:
            released: what `query` returned.
            public: the public images; never None where it `reads_public`.
            log: of this lesson alone.
        """
