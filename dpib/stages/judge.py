"""Train the classifiers and choose among their epochs: the half of evaluation that may spend budget."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev

import torch
from torch import Tensor, nn

from dpib import checkpoint, seeding
from dpib.config import Config
from dpib.config.schema import Eval
from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics.utility import Epoch, accuracy, predictor, train_classifier
from dpib.nn import classifiers
from dpib.privacy.events import Charge
from dpib.privacy.mechanisms import Predictor
from dpib.stages.context import Context
from dpib.synthesizer import Log

JOINT = "best"

_MOST_KEPT = 2 * 2**30  # bytes; the published classifiers take 9 GB for MNIST and 64 GB for CIFAR-10

Test = Callable[[str, Predictor], Tensor]
"""Returns a candidate's hits on test images, bool [n]."""


@dataclass
class Race:
    """Every epoch of every classifier is a candidate `<classifier>/<epoch>`.

    `syn` and `test` are accuracies in percent on held-out synthetic and on real test images, `test` of those
    candidates alone that were tested; `losses` the training losses. All are un-noised: what of them may be seen is
    the caller's business.
    """

    syn: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)

    def groups(self) -> dict[str, list[str]]:
        """Return the candidates of each selection: one per classifier, and the joint one over all."""
        own: dict[str, list[str]] = {}
        for candidate in self.losses:
            own.setdefault(candidate.partition("/")[0], []).append(candidate)
        return {**own, JOINT: list(self.losses)}

    def best(self, scores: Mapping[str, float]) -> dict[str, str]:
        """Return the candidate with the highest score in each group; the earliest of equals."""
        return {name: max(group, key=lambda c: scores[c]) for name, group in self.groups().items()}


def selection_plan(settings: Eval, epsilon: float) -> tuple[Charge, ...]:
    """Return the selections on validation images: equal shares of epsilon, the joint one included."""
    selections = [*names(settings), JOINT]
    share = epsilon / len(selections)
    return tuple(
        Charge(
            f"select/{name}",
            "noisy_max",
            f"which epoch{' and classifier' if name == JOINT else f' of {name}'} is most accurate on held-out images",
            epsilon=share,
        )
        for name in selections
    )


def race(
    context: Context,
    images: Images,
    score: Callable[[str, Predictor], None] | None,
    test: Test | None,
    everyone: bool = False,
) -> Race:
    """Train the configured classifiers on `images` and put every epoch to the start.

    Args:
        context: the stage; finished classifiers are kept in its snapshot, so that a killed run does not
            repeat them.
        images: the synthetic set.
        score: counts a candidate's hits on validation images inside the vault, or None. It counts all of them, also
            those that cannot win: which ones it left out would tell of them.
        test: tries a candidate on test images, or None.
        everyone: whether all candidates are tested. Otherwise the weights of every epoch stay in the private folder
            for `test_winners`, unless they would fill the disk.

    Raises:
        UserError: when the images are too few.
    """
    config, log = context.config, context.log
    require_enough(config, len(images))
    fitted, held = hold_out(config, images)
    snapshot = log.restored()
    found = Race(**snapshot["race"]) if snapshot is not None else Race()
    done = set(found.groups()) - {JOINT}
    at_once = everyone or not _keepable(context)
    for name in names(config.eval):
        if name in done:
            log.say(f"evaluate: {name} was finished before the interruption")
            continue
        made = network(context, name)
        for epoch in train_classifier(
            made, fitted, config.eval.schedule, config.seed, name, context.device, context.lower
        ):
            candidate = f"{name}/{epoch.number}"
            found.losses[candidate] = epoch.loss
            found.syn[candidate] = accuracy(epoch.predict(held.x) == held.y)
            if score is not None:
                score(candidate, epoch.predict)
            if test is not None and at_once:
                found.test[candidate] = accuracy(test(candidate, epoch.predict))
            elif test is not None:
                checkpoint.save(_kept(context, candidate), dict(epoch.network.state_dict()))
            _tell(log, name, epoch, found.syn[candidate])
        log.save({"race": {"syn": found.syn, "test": found.test, "losses": found.losses}})
    return found


def test_winners(context: Context, found: Race, winners: Mapping[str, str], test: Test) -> None:
    """Try the selected candidates on test images, those that the race did not: test images cost most of the time."""
    for candidate in set(winners.values()) - set(found.test):
        predict = restored(context, candidate.partition("/")[0], checkpoint.load(_kept(context, candidate)))
        found.test[candidate] = accuracy(test(candidate, predict))


def _kept(context: Context, candidate: str) -> Path:
    return context.private / "epochs" / f"{candidate.replace('/', '-')}.safetensors"


def _keepable(context: Context) -> bool:
    """Return whether the weights of every epoch are few enough to be kept until one is selected."""
    made = [network(context, name) for name in names(context.config.eval)]
    needed: int = context.config.eval.schedule.epochs * sum(t.nbytes for m in made for t in m.state_dict().values())
    return needed <= min(_MOST_KEPT, shutil.disk_usage(context.private).free // 2)


def restored(context: Context, name: str, state: checkpoint.State) -> Predictor:
    """Return a configured classifier with the weights of `state`, as a predictor."""
    made = network(context, name)
    made.load_state_dict(state)
    made.to(context.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return predictor(made, context.device, context.lower)


def hold_out(config: Config, images: Images) -> tuple[Images, Images]:
    """Shuffle the synthetic images and return (those that train, those held out), within `eval.images`."""
    order = torch.randperm(len(images), generator=seeding.generator(config.seed, "evaluate", "split"))
    held = _held(config, len(images))
    fitted = order[held:] if config.eval.images is None else order[held : held + config.eval.images]
    return images.take(fitted), images.take(order[:held])


def require_enough(config: Config, n: int) -> None:
    """Refuse `n` synthetic images that do not fill one batch of the classifiers.

    Raises:
        UserError: saying how many there are and how many it takes.
    """
    batch, left = config.eval.schedule.batch, n - _held(config, n)
    if min(left, config.eval.images or left) < batch:
        raise UserError(
            f"of {n} synthetic images {_held(config, n)} are held out, and the rest within eval.images does not fill "
            f"one batch of {batch}: give more images, or lower eval.schedule.batch"
        )


def _held(config: Config, n: int) -> int:
    return max(1, round(n * config.eval.syn_holdout))


def utility_metrics(found: Race, winners: Mapping[str, str]) -> dict[str, float]:
    """Return the test accuracies of the selected candidates, under their contract names."""
    each = {name: found.test[c] for name, c in winners.items() if name != JOINT}
    metrics = {f"utility/{name}/accuracy": value for name, value in each.items()}
    metrics["utility/accuracy_best"] = found.test[winners[JOINT]]
    metrics["utility/accuracy_mean"] = fmean(each.values())
    metrics["utility/accuracy_std"] = pstdev(each.values())
    return metrics


def diverged(found: Race, classes: int) -> list[str]:
    """Return the classifiers that did not learn the synthetic images themselves: near chance at every epoch."""
    chance = 100 / classes
    groups = {name: group for name, group in found.groups().items() if name != JOINT}
    return [name for name, group in groups.items() if max(found.syn[c] for c in group) < 1.5 * chance]


def names(settings: Eval) -> list[str]:
    """Return the configured classifiers."""
    return [name for name, value in settings.classifiers if value is not None]


def network(context: Context, name: str) -> nn.Module:
    """Return one classifier, freshly initialised from the seed."""
    config, card = context.config, context.card
    with seeding.seeded(config.seed, "evaluate", name):
        return classifiers.build(config.eval.classifiers, card.shape[0], len(card.classes))[name]


def _tell(log: Log, name: str, epoch: Epoch, syn: float) -> None:
    log.curve(f"utility/{name}/loss", epoch.loss, epoch.number)
    log.curve(f"utility/{name}/synthetic_accuracy", syn, epoch.number)
    log.say(f"evaluate: {name} epoch {epoch.number + 1}: loss {epoch.loss:.4f}, synthetic accuracy {syn:.1f}")
