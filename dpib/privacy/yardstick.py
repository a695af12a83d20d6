"""Real images for figures that are computed without noise, and the door for non-private runs.

A benchmark needs such figures: accuracy on test images, fidelity against real ones. Each is declared in
the ledger's statement as not covered by epsilon before it is computed, and none exists where the run
has `yardstick=none`.
"""

from collections.abc import Callable
from typing import TypeVar

from dpib.images import Images
from dpib.privacy.ledger import BudgetError, Ledger

Result = TypeVar("Result")


class Yardstick:
    """Real images of one split, to be measured against and never to be trained on."""

    def __init__(self, images: Images, split: str, ledger: Ledger, allowed: bool) -> None:
        self._images = images
        self._split = split
        self._ledger = ledger
        self._allowed = allowed

    @property
    def n(self) -> int:
        """The number of real images in this split."""
        return len(self._images)

    def measure(self, name: str, what: str, function: Callable[[Images], Result]) -> Result:
        """Declare the figure `name`, described by `what`, then return `function(real images)`.

        Raises:
            BudgetError: when this run allows no un-noised figures.
        """
        if not self._allowed:
            raise BudgetError(f"{name!r} needs real {self._split} images, but yardstick=none forbids it")
        self._ledger.declare(name, self._split, what)
        return function(self._images)


def unprotected(images: Images, why: str) -> Images:
    """Hand out sensitive images as they are, for a run that is declared non-private; `why` says for what."""
    if not why:
        raise ValueError("an unprotected use of sensitive images must say why")
    return images
