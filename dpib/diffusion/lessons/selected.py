"""Lesson `selected`: the public classes that sensitive images resemble most, under the sensitive labels.

K. Li, C. Gong, Z. Li, Y. Zhao, X. Hou, T. Wang: PrivImage, USENIX Security 2024, arXiv:2311.12850.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dpib.checkpoint import State
from dpib.diffusion.lessons.lesson import LessonSettings
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.synthesizer import Log, Task

_EXAMPLES = 10


class SelectedSettings(LessonSettings):
    """Keys of this lesson."""

    part: str = Field(default="semantics", description="which part says what public class an image looks like")
    ratio: float = Field(gt=0, le=1, description="share of the public classes that is chosen, over all classes")
    noise_multiplier: float | None = Field(
        default=None, gt=0, description="noise over sqrt(k), the most that one image votes; none: calibrated to epsilon"
    )
    assignment: Literal["classes", "scores"] = Field(
        default="classes",
        description="who chooses first: the classes in their order (as published), or the highest noised votes",
    )


class SelectedLesson:
    """Every image votes for the k public classes that it resembles most; each class takes those with most votes."""

    Settings: ClassVar[type[LessonSettings]] = SelectedSettings
    reads_public: ClassVar[bool] = True

    def __init__(self, settings: SelectedSettings, task: Task, name: str) -> None:
        self.settings, self.task, self.name = settings, task, name
        if task.public_classes is not None:
            self.each = self._each(len(task.public_classes))

    def _each(self, public: int) -> int:
        """Return k, how many public classes a sensitive class gets."""
        classes, ratio = self.task.classes, self.settings.ratio
        each = math.floor(public * ratio / classes * (1 + 1e-9))
        if each < 1:
            raise ValueError(
                f"lesson {self.name} chooses {ratio:g} of {public} public classes, which leaves some of {classes} "
                f"classes none: give ratio={classes / public:.3g} or more, or a public set of more classes"
                if classes <= public
                else f"lesson {self.name} needs a public set of at least {classes} classes, one for each, not {public}"
            )
        return each

    def charges(self, n: int) -> tuple[Charge, ...]:
        """Return the one release of all votes."""
        label = "votes of every image for the public classes that it looks most like, by class"
        return (Charge(self.name, "gaussian", label, sigma=self.settings.noise_multiplier, stage="query"),)

    def query(self, vault: Vault, log: Log) -> State:
        """Release the votes: float64 [classes, public classes], in units of votes.

        Raises:
            UserError: when there is no public set, or the part knows other classes than that has.
        """
        if self.task.public_classes is None:
            raise UserError(f"lesson {self.name} chooses public classes: give -P public=<data set or image folder>")
        public = len(self.task.public_classes)
        votes = Votes(self.task.part(self.settings.part), self.each, self.task.classes, self.task.device)
        if votes.public != public:
            raise UserError(
                f"part {self.settings.part} tells {votes.public} classes apart, the public set has {public}: give the "
                "part that was fitted to this set"
            )
        return {"votes": vault.release_sum(self.name, votes) * math.sqrt(self.each)}

    def images(self, released: State, public: Images | None, log: Log) -> Images:
        """Return the public images of the chosen classes, labelled by who chose them; tell the choice."""
        assert public is not None
        assert self.task.public_classes is not None
        votes, names = released["votes"], self.task.public_classes
        chosen = choose(votes, self.each, self.settings.assignment)
        log.table(
            self.name,
            [
                {
                    "class": label,
                    "name": self.task.class_names[label] if self.task.class_names else label,
                    "rank": rank,
                    "public_class": int(number),
                    "public_name": names[int(number)],
                    "noised_votes": round(float(votes[label, number]), 1),
                }
                for label, numbers in enumerate(chosen)
                for rank, number in enumerate(numbers, 1)
            ],
        )
        log.grid(f"{self.name}-choice", examples(public, chosen), 0)
        labels = torch.full((len(names),), -1)
        for label, numbers in enumerate(chosen):
            labels[numbers] = label
        taken = public.take(labels[public.y] >= 0)
        log.say(f"{self.name}: {len(taken)} images of {self.each} public classes for each class")
        return Images(taken.x, labels[taken.y])


class Votes:
    """A record's feature: 1/sqrt(k) at its label for each of the k public classes of the highest scores.

    Its norm is 1 for every record and every network, since k places are marked whatever the scores are.

    Args:
        network: maps uint8 images [n, c, h, w] to scores [n, public classes].
        each: k.
        classes: the number of sensitive classes.
        device: where the network is.
    """

    def __init__(self, network: nn.Module, each: int, classes: int, device: torch.device) -> None:
        self._network, self._each, self._classes, self._device = network, each, classes, device
        self.public = int(network.get_buffer("classes"))

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the norm of every record's feature, float64 [n]: 1 by construction."""
        return torch.ones(len(x), dtype=torch.float64)

    @torch.no_grad()
    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of features: float64 [classes, public classes]."""
        best = self._network(x.to(self._device)).topk(self._each, 1).indices.cpu()
        total = torch.zeros(self._classes, self.public, dtype=torch.float64)
        place = (y[:, None] * self.public + best).flatten()
        vote = weights.to("cpu", torch.float64)[:, None].expand(-1, self._each).flatten() / math.sqrt(self._each)
        return total.view(-1).index_add_(0, place, vote).view_as(total)


def choose(votes: Tensor, each: int, assignment: str) -> list[Tensor]:
    """Return `each` public classes for every class, none for two of them.

    Args:
        votes: noised, float [classes, public classes].
        each: how many a class gets.
        assignment: `classes` lets one class after the other take its best of those that are left; `scores` gives
            away one pair after the other, the highest votes first.
    """
    left = votes.clone()
    if assignment == "classes":
        chosen = []
        for row in left:
            best = row.topk(each).indices
            chosen.append(best)
            left[:, best] = -torch.inf
        return chosen
    lists: list[list[int]] = [[] for _ in votes]
    taken: set[int] = set()
    for place in votes.flatten().argsort(descending=True).tolist():
        label, public = divmod(place, votes.shape[1])
        if public not in taken and len(lists[label]) < each:
            lists[label].append(public)
            taken.add(public)
    return [torch.tensor(numbers) for numbers in lists]


def examples(public: Images, chosen: list[Tensor]) -> Images:
    """Return a row of ten public images for every class, those of its best public class first."""
    rows = []
    for numbers in chosen:
        # One image of each public class, then a second one of each, until the row is full.
        members = [(public.y == number).nonzero().flatten() for number in numbers.tolist()]
        order = [(turn, i) for turn in range(_EXAMPLES) for i in range(len(members)) if len(members[i]) > 0]
        places = [members[i][turn % len(members[i])] for turn, i in order[:_EXAMPLES]]
        rows.append(torch.stack(places) if places else torch.zeros(_EXAMPLES, dtype=torch.int64))
    return public.take(torch.cat(rows))
