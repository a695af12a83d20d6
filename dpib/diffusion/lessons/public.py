"""Lesson `public`: the public images, as they are.

S. Ghalebikesabi et al.: Differentially private diffusion models generate useful synthetic images, arXiv:2302.13861.
"""

from typing import ClassVar

from dpib.checkpoint import State
from dpib.diffusion.lessons.lesson import LessonSettings
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.synthesizer import Log, Task


class PublicLesson:
    """Every public image under its own label: a sensitive class starts from the public class of the same number."""

    Settings: ClassVar[type[LessonSettings]] = LessonSettings
    reads_public: ClassVar[bool] = True

    def __init__(self, settings: LessonSettings, task: Task, name: str) -> None:
        pass

    def charges(self, n: int) -> tuple[Charge, ...]:
        """Return none."""
        return ()

    def query(self, vault: Vault, log: Log) -> State:
        """Ask nothing."""
        return {}

    def images(self, released: State, public: Images | None, log: Log) -> Images:
        """Return the public images."""
        assert public is not None
        return public
