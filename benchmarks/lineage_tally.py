"""The independent tally of `lineage_fuzz`: every noise draw that was released, with the images that it touched."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from dpib import atomic, journal
from dpib.images import record_digests
from dpib.privacy import accounting
from dpib.privacy.events import Charge, Event
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.tracking import Run

Artifact = dict[str, Any]


def watch(log: Path, kill_at: int | None) -> None:
    """In this process, write down what is released, and end it by -9 at the `kill_at`-th of many moments."""
    passed = 0

    def mortal(owner: Any, name: str, after: bool = False) -> None:
        original = getattr(owner, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            found = original(*args, **kwargs) if after else None
            passed += 1
            if passed == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return found if after else original(*args, **kwargs)

        setattr(owner, name, dying)

    finish, finished = Vault._finish, Vault._finished

    def note(vault: Vault, name: str, index: int) -> None:
        charge = vault._plan[name]
        entry = {
            # Where a value lies is what it is: drawn anew there it replaces one that nobody had seen.
            "key": f"{vault._file(name, index)}",
            "scope": vault._scope,
            "dataset": vault._ledger.account.dataset,
            "home": os.environ["DPIB_HOME"],
            "charge": {k: getattr(charge, k) for k in ("kind", "sigma", "epsilon", "scale", "rate")},
            "records": [digest.hex() for digest in record_digests(vault._images)],
        }
        with log.open("a") as handle:
            handle.write(json.dumps(entry) + "\n")

    def kept(self: Vault, name: str, value: Any, index: int = 0) -> Any:
        found = finish(self, name, value, index)
        note(self, name, index)
        return found

    def restored(self: Vault, name: str, index: int = 0) -> Any:
        found = finished(self, name, index)
        if found is not None:
            note(self, name, index)
        return found

    Vault._finish, Vault._finished = kept, restored  # type: ignore[method-assign]
    for owner, name in (
        (NoiseSource, "normal"), (NoiseSource, "laplace"), (Ledger, "_store"), (journal.Journal, "spend"),
        (journal.Journal, "saw"), (Run, "artifacts"), (Run, "final"), (atomic, "write_text"),
    ):  # fmt: skip
        mortal(owner, name)
    mortal(Vault, "_finish", after=True)
    mortal(Run, "artifact", after=True)


class Tally:
    """The draws behind every artifact of one sequence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._draws: dict[str, Artifact] = {}
        self._behind: dict[str, set[str]] = {}
        self._of_run: dict[str, str] = {}

    def add(self, artifact: Artifact, log: Path, earlier: list[Artifact]) -> None:
        """Note what an artifact was made from: what its command released, and all that is behind what it began with.

        A command that judges a training goes on from what its machine and its store know of earlier judgements.
        """
        entries = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        own = {entry["key"] for entry in entries}
        self._draws.update({entry["key"]: entry for entry in entries})
        run = str(artifact.get("run") or artifact.get("sweep"))
        if run in self._of_run:  # a finished run that was found again speaks of its own time
            self._behind[artifact["id"]] = self._behind[self._of_run[run]]
            return
        self._of_run[run] = artifact["id"]
        parent = artifact.get("parent")
        behind = set(own) if parent is None else own | self._behind[parent["id"]]
        if any(self._draws[key]["scope"] == "val" for key in own):
            for other in earlier:
                knows = other["home"] == artifact["home"] or other["store"] == artifact["store"]
                if knows and other["kind"] in ("judged", "sweep") and _training(other) == _training(artifact):
                    behind |= {key for key in self._behind[other["id"]] if self._draws[key]["scope"] == "val"}
        self._behind[artifact["id"]] = behind

    def epsilon(self, artifact: Artifact, account: Account) -> float:
        """Return the largest epsilon of any image of the account's data set, from the draws that touched it.

        That the images of another name are the same ones can only be known where both were trained on.
        """
        behind = [self._draws[key] for key in sorted(self._behind[artifact["id"]])]
        own = [draw for draw in behind if draw["dataset"] == account.dataset]
        homes = {draw["home"] for draw in own}
        draws = own + [draw for draw in behind if draw["dataset"] != account.dataset and draw["home"] in homes]
        touched = [set(draw["records"]) for draw in draws]
        records = set().union(*touched[: len(own)])
        together = {tuple(i for i, those in enumerate(touched) if record in those) for record in records}
        return max((_composed([draws[i] for i in each], account) for each in together if each), default=0.0)


def _composed(draws: list[Artifact], account: Account) -> float:
    events: list[Event] = []
    for number, draw in enumerate(draws):
        charge = Charge(f"draw-{number}", label="", **draw["charge"])
        events.append(charge.event("train", len(draw["records"]), account.relation))
    return accounting.composed(events, account.delta, account.accountant)


def _training(artifact: Artifact) -> str | None:
    """Return the training that an artifact is of: the checkpoint that its images were drawn with."""
    found: Artifact | None = artifact
    while found is not None and found["kind"] != "checkpoint":
        if found.get("sweep"):
            break
        found = found.get("parent")
    return None if found is None else str(found["id"])
