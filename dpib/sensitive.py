"""The one place where sensitive images are read from disk; they go straight behind the vault's door."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from dpib.config import Config
from dpib.data import store
from dpib.data.catalog import Card, data_root
from dpib.data.prepare import ensure
from dpib.data.split import split_holdout
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy.events import Charge, Scope
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.privacy.yardstick import Yardstick, unprotected


class Sensitive:
    """A sensitive data set under one configuration: vaults and yardsticks, never images."""

    def __init__(self, config: Config, card: Card) -> None:
        self._config, self._card = config, card
        self._root = data_root(config.data_root)
        self._held_out = config.data.holdout or 0
        self._noise = NoiseSource(config.unsafe_noise_seed)
        ensure(card, self._root)

    def digest(self) -> str:
        """Return a digest of the training images, to notice changed data. Stays on this machine."""
        return store.digest(self._train)

    def account(self) -> Account:
        """Return a fresh account with this run's budget."""
        config, card = self._config, self._card
        assert config.delta is not None
        scopes: dict[Scope, int] = {"train": card.sizes.train - self._held_out}
        if self._held_out:
            scopes["val"] = self._held_out
        return Account(
            dataset=card.name,
            relation=config.relation,
            accountant=config.accountant,
            epsilon=config.epsilon,
            delta=config.delta,
            scopes=scopes,
        )

    def vault(self, scope: Scope, ledger: Ledger, plan: Sequence[Charge], folder: Path) -> Vault:
        """Return the vault of one scope; finished releases are kept in `folder`."""
        train, val = self._split
        images = train if scope == "train" else val
        if len(images) == 0:
            raise UserError("eval.mode=val selects on held-out images: set data.holdout, or eval.mode=syn")
        return Vault(images, scope, ledger, plan, self._noise, folder)

    def yardstick(self, split: str, ledger: Ledger) -> Yardstick:
        """Return the real images of `train` (the part that is trained on) or `test` for un-noised figures."""
        if split == "train":
            images = self._split[0]
        else:
            if self._card.sizes.test == 0:
                raise UserError(f"{self._card.name} has no test images: set yardstick=none")
            images = store.read_split(self._root, self._card, "test")
        return Yardstick(images, split, ledger, self._config.yardstick == "all")

    def baseline(self) -> tuple[Images, Images]:
        """Return the real (train, val) images, for a run that is declared non-private."""
        train, val = self._split
        why = "the non-private baseline trains classifiers on real images"
        return unprotected(train, why), unprotected(val, why)

    @cached_property
    def _train(self) -> Images:
        return store.read_split(self._root, self._card, "train")

    @cached_property
    def _split(self) -> tuple[Images, Images]:
        return split_holdout(self._train, self._held_out)
