"""What of a configuration contradicts itself or its data set: told before the first stage, without a look at data."""

from dpib.config.schema import Config
from dpib.data.catalog import Card
from dpib.errors import Faults, UserError

LARGE_DELTA = 0.01
"""The largest delta that is taken without a word of its own."""


def require_sense(config: Config, card: Card) -> None:
    """Refuse a resolved configuration that could only fail later, or promise nothing.

    Raises:
        UserError: one line with every contradiction.
    """
    faults, mode = Faults(), config.eval.mode
    if mode == "val" and not config.data.holdout:
        faults.add("eval.mode=val selects on held-out images, and there are none: set data.holdout, or eval.mode=syn")
    if mode == "sen" and config.yardstick is None:
        faults.add("eval.mode=sen selects on test images, which yardstick=none forbids")
    if config.oracle and config.yardstick is None:
        faults.add("oracle=true asks for figures on real images, which yardstick=none forbids: leave one of them")
    n = config.generate.images
    if n - max(1, round(n * config.eval.syn_holdout)) < 1:
        faults.add(f"generate.images={n} leaves no synthetic image to train a classifier on: raise it")
    if config.yardstick is not None and card.sizes.test == 0:
        faults.add(f"{card.name} has no test images: set yardstick=none")
    if config.delta is not None and config.delta > LARGE_DELTA and not config.large_delta:
        faults.add(
            f"delta={config.delta:g} is above {LARGE_DELTA}; above 1/n it permits to publish whole records: "
            "lower it, or accept it with large_delta=true"
        )
    faults.refuse()


def require_pretraining(config: Config, started: bool) -> None:
    """Refuse to train from nothing a method that goes on from public images; `started`: from a run or checkpoint.

    Raises:
        UserError: naming what to start from.
    """
    required = getattr(config.recipe, "pretraining", "optional") == "required"
    if required and config.public is None and not started:
        raise UserError(
            f"{config.method} goes on from public images: give -P public=<data set or image folder>, "
            "-P pretrain_run=<run id> or -P checkpoint=<file>; -P pretraining=optional trains it from nothing"
        )
