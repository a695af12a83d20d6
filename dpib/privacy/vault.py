"""One scope of one sensitive data set, behind a door: what leaves is clipped, charged and noised.

Every release follows the same order: the charge is written to the ledger, then noise is drawn, then the
noised value is written to disk, then it is returned. After a crash the value on disk is returned again;
a value that never reached the disk was never seen, and is drawn anew under the charge already made.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpib.atomic import replacing, write_text
from dpib.distributed import World
from dpib.images import Images
from dpib.privacy import gradients
from dpib.privacy.events import Charge, Scope
from dpib.privacy.gradients import Gradients, GradientSpec
from dpib.privacy.ledger import BudgetError, Ledger
from dpib.privacy.mechanisms import Feature, Predictor, StepsMechanism, SumMechanism, Witness
from dpib.privacy.per_record.base import RecordLoss
from dpib.privacy.rng import NoiseSource
from dpib.privacy.sums import clipped_sum


class Vault:
    """Guards `images`; releases only what `plan` foresees and `ledger` can pay for.

    Args:
        images: the sensitive records of this scope.
        scope: `train` or `val`.
        ledger: the account that is charged.
        plan: calibrated charges, by whose names releases are asked for.
        prefix: before these names in the ledger, where it holds the charges of others as well.
        noise: the source of privacy noise.
        folder: where finished releases are kept for resumption (private: counts may stand there too).
        batch: records processed at a time; bounds memory and changes no result.
        world: the processes that share the work of `gradients`.
        witness: told of sums and gradients before they are released.
    """

    def __init__(
        self,
        images: Images,
        scope: Scope,
        ledger: Ledger,
        plan: Sequence[Charge],
        noise: NoiseSource,
        folder: Path,
        batch: int = 1000,
        world: World | None = None,
        witness: Witness | None = None,
        prefix: str = "",
    ) -> None:
        expected = ledger.account.scopes.get(scope, 0)
        if len(images) != expected or not expected:
            raise BudgetError(
                f"the ledger speaks of {expected} {scope} images, the data has {len(images)}: the split of the data "
                "(data.holdout) must be the one that the synthesizer was trained under"
            )
        self._images = images
        self._scope: Scope = scope
        self._ledger = ledger
        self._plan = {charge.name: charge for charge in plan}
        self._noise = noise
        self._folder = folder
        self._batch = batch
        self._world = world or World()
        self._witness = witness
        self._prefix = prefix
        self._made: dict[str, int] = {}
        self._iterating: dict[str, object] = {}
        self._counts_file = folder / f"{scope}-counts.json"
        self._counts: dict[str, int] = {}
        if self._counts_file.is_file():
            self._counts = json.loads(self._counts_file.read_text())
        if noise.tainted and self._world.leads:
            ledger.taint()

    @property
    def n(self) -> int:
        """The number of records in this scope; public under zero-out neighbours."""
        return len(self._images)

    def release_sum(self, name: str, feature: Feature, index: int = 0) -> Tensor:
        """Release the sum over records of a feature with norm at most 1, plus N(0, sigma^2) noise.

        A record whose norm exceeds 1 is scaled down to it, and one whose norm is not finite counts
        as null, so that the sensitivity is 1 whatever the records are.

        One process of several draws, and tells the others what it released.

        Args:
            name: of a Gaussian charge; all its releases are charged with the first.
            feature: of one record.
            index: which of the charge's `count` releases; each sees a Poisson sample of its own where `rate` < 1.

        Returns:
            float64 of the feature's shape, on the CPU.

        Raises:
            BudgetError: when `name` is not in the plan, has no such index, or cannot be paid for.
        """
        charge = self._planned(name, "gaussian")
        if not 0 <= index < charge.count:
            raise BudgetError(f"release {index} of {name!r} is not planned: the charge is for {charge.count}")
        if self._witness is not None:
            self._witness(charge, SumMechanism(feature))
        return self._told(self._noised_sum(charge, feature, index) if self._world.leads else None)

    def _noised_sum(self, charge: Charge, feature: Feature, index: int) -> Tensor:
        saved = self._finished(charge.name, index)
        if saved is not None:
            return saved
        assert charge.sigma is not None
        self._charge(charge)
        total = clipped_sum(self._images, feature, charge, self._noise, self._batch)
        noisy = total + charge.sigma * self._noise.normal(tuple(total.shape))
        if not torch.isfinite(noisy).all():
            raise BudgetError(f"release {charge.name!r} overflowed; nothing was released")
        return self._finish(charge.name, noisy, index)

    def _told(self, value: Tensor | None) -> Tensor:
        """Return rank 0's value on every rank; on the others there is none to give."""
        shape = json.loads(self._world.share("" if value is None else json.dumps(list(value.shape))))
        if value is None:
            value = torch.empty(shape, dtype=torch.float64)
        return self._world.broadcast(value.to(self._world.device)).cpu()

    def gradients(self, name: str, loss: RecordLoss, model: nn.Module, spec: GradientSpec) -> Iterator[Gradients]:
        """Release the noised gradient of `loss` at the model's current parameters, once per step (DP-SGD).

        The whole charge is made here. Steps before `spec.start` count as persisted and cannot be had
        again; those after it were never seen outside and are drawn anew.

        Args:
            name: of a Gaussian charge: its sigma, Poisson rate, cap and number of steps are what runs.
            loss: of one record.
            model: its trainable parameters are differentiated; it is left as found.
            spec: clip, seed and how to compute.

        Yields:
            one item per step, `charge.count - spec.start` of them; asking for more raises `BudgetError`.

        Raises:
            BudgetError: when `name` is not in the plan or cannot be paid for.
            UserError: when the model has layers whose records cannot be told apart.
        """
        charge = self._planned(name, "gaussian")
        if self._witness is not None:
            self._witness(charge, StepsMechanism(loss, model, spec))
        steps = gradients.prepare(self._images, charge, loss, model, spec, self._noise, self._world)
        if self._world.leads:
            self._start_at(name, spec.start)
            self._charge(charge)
        self._world.barrier()
        token = self._iterating[name] = object()
        return self._counted(name, spec.start, steps, token)

    def _start_at(self, name: str, start: int) -> None:
        """Note that the steps before `start` are persisted, and refuse to make any of them again."""
        file = self._folder / f"{self._spelt(name)}-start.json"
        persisted = json.loads(file.read_text()) if file.is_file() else 0
        least = max(persisted, self._made.get(name, 0))
        if start < least:
            raise BudgetError(f"step {start} of {name!r} was already released: go on at step {least}, or start afresh")
        write_text(file, json.dumps(start))

    def _counted(self, name: str, start: int, steps: Iterable[Gradients], token: object) -> Iterator[Gradients]:
        made = start
        own = iter(steps)
        while True:
            # Two iterators of one charge would make its steps twice.
            if self._iterating[name] is not token:
                raise BudgetError(f"the steps of {name!r} were begun again meanwhile: the charge is for one iterator")
            step = next(own, None)
            if step is None:
                return
            made += 1
            self._made[name] = made
            yield step

    def _charge(self, charge: Charge) -> None:
        self._ledger.reserve([replace(charge, name=self._prefix + charge.name)], self._scope)

    def score(self, candidate: str, predictor: Predictor) -> None:
        """Count the records that `predictor` gets right; the count stays inside (see `select`).

        Counts are kept in the private folder, so that an interrupted evaluation need not repeat them.
        """
        self._counts[candidate] = self._correct(predictor)
        write_text(self._counts_file, json.dumps(self._counts))

    def release_count(self, name: str, predictor: Predictor) -> float:
        """Release how many records `predictor` gets right, plus Gaussian or Laplace noise as planned.

        One record changes the count by at most 1. The finished value is kept and returned again, so that
        a retry neither pays nor learns anything.

        Raises:
            BudgetError: when `name` is not in the plan or cannot be paid for.
        """
        charge = self._whole(self._planned(name, "gaussian", "laplace"))
        saved = self._finished(name)
        if saved is not None:
            return float(saved)
        correct = self._correct(predictor)
        self._charge(charge)
        if charge.sigma is not None:
            noise = charge.sigma * self._noise.normal((1,))
        else:
            assert charge.scale is not None
            noise = self._noise.laplace(1, charge.scale)
        return float(self._finish(name, correct + noise))

    def _correct(self, predictor: Predictor) -> int:
        return sum(int((predictor(chunk.x) == chunk.y).sum()) for chunk in self._images.chunks(self._batch))

    def select(self, name: str, candidates: Sequence[str]) -> str:
        """Release which candidate has (about) the highest count: report-noisy-max, the index only.

        One record changes every count by at most 1 and, under zero-out, all in one direction, so
        Laplace noise of scale 1/epsilon suffices for any number of candidates (Dwork and Roth 2014,
        Claim 3.9); under replace-one it takes 2/epsilon.

        Raises:
            BudgetError: when `name` is not in the plan or cannot be paid for.
        """
        charge = self._planned(name, "noisy_max")
        saved = self._finished(name)
        if saved is not None:
            return candidates[int(saved)]
        assert charge.epsilon is not None
        counts = torch.tensor([self._counts[c] for c in candidates], dtype=torch.float64)
        self._charge(charge)
        moves = 1 if self._ledger.account.relation == "zero_out" else 2
        winner = torch.argmax(counts + self._noise.laplace(len(candidates), moves / charge.epsilon))
        return candidates[int(self._finish(name, winner))]

    def _planned(self, name: str, *kinds: str) -> Charge:
        charge = self._plan.get(name)
        if charge is None or charge.kind not in kinds:
            raise BudgetError(f"no {' or '.join(kinds)} release named {name!r} is planned for scope {self._scope!r}")
        return charge

    def _whole(self, charge: Charge) -> Charge:
        """Return a charge of a release that sees every record; one priced for a sample would cost too little."""
        if charge.rate < 1:
            raise BudgetError(f"{charge.name!r} is priced for a sample of the records, and this release sees all")
        return charge

    def _file(self, name: str, index: int = 0) -> Path:
        which = f"#{index}" if index else ""  # no name has this sign
        return self._folder / f"{self._spelt(name)}{which}.safetensors"

    def _spelt(self, name: str) -> str:
        """Return what files of a release begin with; no two names are spelt alike."""
        return f"{self._scope}-{name.replace('/', '+')}"

    def _finished(self, name: str, index: int = 0) -> Tensor | None:
        path = self._file(name, index)
        return load_file(path)["value"] if path.exists() else None

    def _finish(self, name: str, value: Tensor, index: int = 0) -> Tensor:
        with replacing(self._file(name, index)) as temporary:
            save_file({"value": value.contiguous()}, temporary)
        return value
