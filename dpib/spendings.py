"""What was spent on the held-out images to judge one training: known from this machine, and from the store."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from dpib.errors import UserError
from dpib.images import Images, record_digests
from dpib.privacy.events import Event
from dpib.privacy.ledger import LEDGER, Account
from dpib.privacy.lineage import about, spent_since
from dpib.sensitive import Sensitive
from dpib.tracking import Store

TAG = "dpib.held_out"


@dataclass(frozen=True)
class Spendings:
    """The spendings that belong together, because they judge one training or one synthetic set.

    Args:
        sensitive: the data set whose held-out images judge.
        store: where others' runs are.
        run: the one that spends.
        trainings: what the training's account calls itself and what it started from, the newest last.
        name: what the charges of this run are called by, apart from those of all others.
        images: digest of the synthetic set, by which it is known without its statement; none: there is none yet.
    """

    sensitive: Sensitive
    store: Store
    run: str
    trainings: tuple[str, ...]
    name: str
    images: str | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """The keys under which what is spent now will be found."""
        return (*self.trainings[-1:], *((self.images,) if self.images else ()))

    def record(self, events: Sequence[Event], account: Account) -> None:
        """Remember what is about to be spent, before it is: here, and in the store as the run's ledger."""
        self.sensitive.spend(self.own, events)
        self.store.text(self.run, account.text(), str(LEDGER))

    def continued(self, account: Account) -> Account:
        """Return `account` with all that is known to have been spent on held-out images to judge this training.

        Its scopes stay disjoint only if the training is known to have seen these images, split like this, and what is
        added to have been spent on the very images that are held out here: others may be in this training.

        Raises:
            UserError: when a finished run spent what nobody can read any more.
        """
        keys = list(dict.fromkeys([*self.trainings, *self.own]))
        found = {event.id: event for event in self.sensitive.spent(keys)}
        here = {event.id for event in self.sensitive.spent(keys, these=True)}
        trainings: set[str] = set()
        for run, finished in self.store.tagged(TAG, keys):
            whole = self._stored(run, finished)
            stored = None if whole is None else about(whole, account.dataset, self.sensitive.touches)
            if stored is None:
                continue
            trainings.update(stored.origins)
            events = [event for event in stored.events if event.scope == "val"]
            found.update({event.id: event for event in events})
            if self.sensitive.published(stored):
                here |= {event.id for event in events}
        # Where others knew a training under another name to be on these images, that is known here from now on.
        account = about(account, account.dataset, lambda each: not trainings.isdisjoint(each.origins)) or account
        added = set(found) - {event.id for event in account.events}
        apart = account.disjoint and self.sensitive.trained(account) and added <= here
        return spent_since(account, found.values()).model_copy(update={"disjoint": apart})

    def _stored(self, run: str, finished: bool) -> Account | None:
        """Return the ledger of another run, if it has one."""
        try:
            return Account.parse(self.store.fetch(run, str(LEDGER)).read_text())
        except UserError as error:
            if not finished:
                return None  # what it had not tracked, nobody has seen
            raise UserError(
                f"run {run} spent on the same held-out images, and how much cannot be read ({error}): restore its "
                "artifacts, or give -P eval.mode=syn, which spends nothing"
            ) from None


def labelled_digest(images: Images) -> str:
    """Return a digest of a synthetic set: the same for every order of its images, the labels counted."""
    pairs = zip(record_digests(images), images.y.tolist(), strict=True)
    return hashlib.sha256(b"".join(sorted(d + y.to_bytes(8, "little") for d, y in pairs))).hexdigest()
