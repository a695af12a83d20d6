"""The one place where sensitive images are read from disk; they go straight behind the vault's door."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from dpib.config import Config
from dpib.data import store
from dpib.data.catalog import BUNDLED, Card, data_root, home
from dpib.data.prepare import ensure
from dpib.data.split import split_holdout
from dpib.distributed import World
from dpib.errors import UserError
from dpib.images import Images, set_digest
from dpib.journal import Identity, Journal
from dpib.metrics.duplicates import count_duplicates
from dpib.privacy.events import Event, Plan, Scope
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.privacy.yardstick import Yardstick, unprotected

HANDFUL = 5
"""More exact copies than this are no accident: two blank images may be equal, two sets are not."""


def fresh_account(config: Config, card: Card) -> Account:
    """Return an account with this configuration's budget and nothing spent; reads no data."""
    held_out = config.data.holdout or 0
    assert config.delta is not None
    scopes: dict[Scope, int] = {"train": card.sizes.train - held_out}
    if held_out:
        scopes["val"] = held_out
    return Account(
        dataset=card.name,
        relation=config.relation,
        accountant=config.accountant,
        epsilon=config.epsilon,
        delta=config.delta,
        scopes=scopes,
    )


class Sensitive:
    """A sensitive data set under one configuration: vaults and yardsticks, never images."""

    def __init__(self, config: Config, card: Card) -> None:
        self._config, self._card = config, card
        self._root = data_root(config.data_root)
        self._held_out = config.data.holdout or 0
        self._noise = NoiseSource(config.unsafe_noise_seed)
        ensure(card, self._root)

    def identity(self) -> Identity:
        """Return which training images these are; see `Identity`."""
        return self._identity

    def account(self) -> Account:
        """Return a fresh account with this run's budget."""
        return fresh_account(self._config, self._card).model_copy(update={"images": self._identity.told})

    def remember(self, origin: str) -> None:
        """Remember that the training `origin` sees these images, in this order and as a set."""
        self._journal.saw(origin, self._identity.digest)
        self._journal.saw(_as_set(origin), self._members)

    def same(self, account: Account) -> bool:
        """Return whether an account of another data set is known here to be about these very images.

        Raises:
            UserError: when that data set holds some of these images, which no account can tell apart.
        """
        if self._learnt(account):
            return True
        if not self._shared(account.dataset):
            return False
        raise UserError(
            f"what this run starts from learnt from {account.dataset}, which holds images of {self._card.name}: "
            "train on them under one name, so that one ledger counts them"
        )

    def touches(self, account: Account) -> bool:
        """Return whether an account of another data set is known here to be about some of these images, or all.

        What was spent on the rest of them then counts for these as well: that errs on the side of more.
        """
        return self._learnt(account) or self._shared(account.dataset)

    def _learnt(self, account: Account) -> bool:
        """Return whether an account is about these images: everybody knows them, or this machine saw a training."""
        if self.published(account):
            return True
        return any(self._members in self._journal.seen_by(_as_set(origin)) for origin in account.origins)

    def _shared(self, dataset: str) -> bool:
        """Return whether the images that go by another name here hold more than a handful of these."""
        path = store.split_path(self._root, dataset, "train")
        return path.is_file() and self._count(store.read_pixels(path)) > HANDFUL

    @property
    def prepared(self) -> bool:
        """Whether the images are on this machine."""
        return store.split_path(self._root, self._card.name, "train").is_file()

    def is_set(self, digest: str) -> bool:
        """Return whether these training images are the set with this `set_digest`."""
        return self._members == digest

    def overlaps(self, digest: str, public: Callable[[], Images | None]) -> bool | None:
        """Return whether more than a handful of these images stand in a public set, pixel by pixel.

        Args:
            digest: `set_digest` of the public set, by which an earlier comparison is found.
            public: reads the public set in this one's shape; None where it is not at hand.

        Returns:
            None where it cannot be said: the public set is not here.
        """
        count = self._journal.shared(digest, self._identity.digest)
        if count is None:
            images = public()
            if images is None:
                return None
            count = self._count(images)
            self._journal.share(digest, self._identity.digest, count)
        return count > HANDFUL

    def _count(self, others: Images) -> int:
        return count_duplicates(self._train, others) if others.shape == self._train.shape else 0

    def published(self, account: Account) -> bool:
        """Return whether an account is about these images, which everybody may know."""
        return account.images is not None and account.images == self._identity.told

    def trained(self, account: Account) -> bool:
        """Return whether every training of `account` is known to have seen these images, split like this."""
        return not any(event.scope == "train" for event in account.events) or self.known(account)

    def known(self, account: Account) -> bool:
        """Return whether all that `account` speaks of is known to have seen these images."""
        if self.published(account):
            return True
        seen = [self._journal.seen_by(origin) for origin in account.origins]
        return bool(seen) and all(digests == {self._identity.digest} for digests in seen)

    def apart(self, account: Account) -> Account:
        """Return `account`, its scopes disjoint only if all that it speaks of is known to have split these images so.

        Where only one scope was touched there is nothing to tell apart.
        """
        if len({event.scope for event in account.events}) < 2 or self.known(account):
            return account
        return account.model_copy(update={"disjoint": False})

    def spend(self, keys: Sequence[str], events: Iterable[Event]) -> None:
        """Remember what is about to be spent on the held-out images to judge what `keys` name."""
        self._journal.spend(keys, self._names, [(event.id, event.model_dump_json()) for event in events])

    def spent(self, keys: Sequence[str], these: bool = False) -> list[Event]:
        """Return what this machine knows to have been spent on the held-out images to judge what `keys` name.

        Under a name other images may have been held out than now; `these` leaves out what was spent on such.
        """
        names = self._names[1:] if these else self._names
        return [Event.model_validate_json(text) for text in self._journal.spent(keys, names)]

    def vault(self, scope: Scope, ledger: Ledger, plan: Plan, folder: Path, world: World | None = None) -> Vault:
        """Return the vault of one scope; finished releases are kept in `folder`."""
        train, val = self._split
        images = train if scope == "train" else val
        if len(images) == 0:
            raise UserError("eval.mode=val selects on held-out images: set data.holdout, or eval.mode=syn")
        return Vault(images, scope, ledger, plan.charges, self._noise, folder, world=world, prefix=plan.prefix)

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
    def _identity(self) -> Identity:
        expected = self._card.checksums
        # What comes with a package is as public as that is.
        published = self._card.source.kind in BUNDLED or (
            expected is not None and store.checksum(self._train) == expected.train
        )
        return Identity(store.digest(self._train), published)

    @cached_property
    def _members(self) -> str:
        return set_digest(self._train)

    @property
    def _journal(self) -> Journal:
        return Journal(home())

    @property
    def _names(self) -> tuple[str, str]:
        # The same images may go by two names, and one name may stand for other images than before.
        return f"name:{self._card.name}", f"images:{self._identity.digest}"

    @cached_property
    def _split(self) -> tuple[Images, Images]:
        return split_holdout(self._train, self._held_out)


def _as_set(origin: str) -> str:
    """Return the name under which the journal keeps what a training saw whatever its order."""
    return f"set:{origin}"
