"""What the lessons release, and what they make of it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpib import seeding
from dpib.diffusion.lessons.central import CentralLesson, CentralSettings, ClassSums
from dpib.diffusion.lessons.frequency import FrequencyLesson, FrequencySettings
from dpib.diffusion.lessons.selected import SelectedLesson, SelectedSettings, Votes, choose, examples
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy.audit import records
from dpib.privacy.audit.findings import failed
from dpib.privacy.audit.sums import audit_sum
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.synthesizer import Task
from tests.quiet import Quiet

SHAPE, CLASSES, PUBLIC = (1, 8, 8), 4, 12
SELECTED = SelectedSettings(kind="selected", ratio=0.5, noise_multiplier=3.0)
CENTRAL = CentralSettings(kind="central", samples=3, batch=20, noise_multiplier=2.0)
FREQUENCY = FrequencySettings(
    kind="frequency",
    noise_multiplier=2.0,
    features={"kind": "fourier", "dimension": 40, "bandwidths": [20.0], "count_weight": 0.1},
    network={"name": "small", "latent": 4, "width": 4, "hidden": 20},
    generator={"steps": 5, "batch": 20, "lr": 0.01},
    images=30,
)


class Brightness(nn.Module):
    """Scores by how near an image's mean level is to one of as many levels."""

    def __init__(self, classes=PUBLIC):
        super().__init__()
        self.register_buffer("classes", torch.tensor(classes))

    def forward(self, x):
        levels = torch.linspace(0, 255, int(self.classes))
        return -(x.float().flatten(1).mean(1, keepdim=True) - levels).abs()


TASK = Task(
    SHAPE, CLASSES, 0, torch.device("cpu"), public_classes=tuple(f"p{i}" for i in range(PUBLIC)),
    part=lambda name: Brightness(),
)  # fmt: skip


def lesson(settings, task=TASK):
    kinds = {"selected": SelectedLesson, "central": CentralLesson, "frequency": FrequencyLesson}
    return kinds[settings.kind](settings, task, settings.kind)


def toys(n=40):
    stream = seeding.generator(0, "toys")
    return Images(torch.randint(0, 256, (n, *SHAPE), generator=stream, dtype=torch.uint8), torch.arange(n) % CLASSES)


def asked(settings, images, folder, seed=0, task=TASK, **changed):
    """Return what a lesson was told of these images, and the events that stand in the ledger for it."""
    one = lesson(settings, task)
    plan = [replace(charge, **changed) for charge in one.charges(len(images))]
    account = Account(dataset="toy", relation="zero_out", epsilon=1e30, delta=1e-5, scopes={"train": len(images)})
    ledger = Ledger.open(folder / "ledger.json", account)
    vault = Vault(images, "train", ledger, plan, NoiseSource(seed), folder)
    return one.query(vault, Quiet()), ledger.account.events


FEATURES = {
    "votes": Votes(Brightness(), 3, CLASSES, torch.device("cpu")),
    "sums": ClassSums(SHAPE, CLASSES, 2),
    "embedding": lesson(FREQUENCY)._features(),
}


@pytest.mark.parametrize("settings", [SELECTED, CENTRAL, FREQUENCY], ids=lambda s: s.kind)
@pytest.mark.parametrize("which", range(6))
def test_one_record_moves_a_release_by_no_more_than_it_is_charged_for(settings, which, tmp_path):
    # The records hold a class of one, and classes of none; the same noise on both sides leaves the mechanism itself.
    images = records.adversarial(SHAPE, CLASSES)
    everything = settings.model_copy(update={"batch": len(images)} if settings.kind == "central" else {})
    unit = {"selected": math.sqrt(1), "central": math.sqrt(16), "frequency": 1.0}[settings.kind]
    without, released = records.NullableFeature, []
    for number, one in enumerate((images, records.without(images, which))):
        made = lesson(everything)
        (charge,) = made.charges(len(one))
        account = Account(dataset="toy", relation="zero_out", epsilon=1e30, delta=1e-5, scopes={"train": len(one)})
        folder = tmp_path / str(number)
        vault = Vault(one, "train", Ledger.open(folder / "l.json", account), [charge], NoiseSource(5), folder)
        sound = vault.release_sum
        vault.release_sum = lambda name, feature, index=0, sound=sound: sound(name, without(feature), index)
        released.append(next(iter(made.query(vault, Quiet()).values())))
    moved = (released[0] - released[1]).flatten(1 if settings.kind == "central" else 0)
    assert float(moved.norm(dim=-1).max()) <= unit * (1 + 1e-5)
    # The black image, and the board whose every other pixel is black, add nothing to a sum of pixels.
    assert float(moved.norm()) > 0 or (settings.kind == "central" and which in (2, 4))


@pytest.mark.parametrize("name", FEATURES)
def test_the_features_pass_the_audit(name):
    (charge,) = lesson({"votes": SELECTED, "sums": CENTRAL, "embedding": FREQUENCY}[name]).charges(40)
    assert failed(audit_sum(charge, FEATURES[name], SHAPE, CLASSES)) == []


def test_an_image_whose_votes_all_change_moves_them_by_the_root_of_k_each_way():
    votes = FEATURES["votes"]
    dark, bright = (torch.full((1, *SHAPE), level, dtype=torch.uint8) for level in (0, 255))
    one, other = (votes.weighted_sum(x, torch.tensor([1]), torch.ones(1)) for x in (dark, bright))
    assert torch.allclose(one[1, :3], torch.full((3,), 3**-0.5, dtype=torch.float64))
    assert torch.allclose(other[1, -3:], torch.full((3,), 3**-0.5, dtype=torch.float64))
    assert float(one.norm()) == pytest.approx(1)
    assert float((one - other).norm()) == pytest.approx(math.sqrt(2))


def test_votes_are_counted_by_class_and_noised_at_the_recipes_scale(tmp_path):
    images = Images(torch.full((6, *SHAPE), 0, dtype=torch.uint8), torch.tensor([0, 0, 0, 2, 2, 3]))
    released, events = asked(SELECTED, images, tmp_path / "a", sigma=1e-9)
    expected = torch.zeros(CLASSES, PUBLIC, dtype=torch.float64)
    expected[:, 0] = torch.tensor([3, 0, 2, 1])  # floor(12 * 0.5 / 4) = 1 vote for each image
    assert torch.allclose(released["votes"], expected, atol=1e-6)
    assert [(event.id, event.sigma, event.rate, event.count) for event in events] == [("train/selected", 1e-9, 1.0, 1)]
    three = SELECTED.model_copy(update={"ratio": 1.0, "noise_multiplier": 5.0})
    noise = asked(three, images, tmp_path / "b")[0]["votes"] - asked(three, images, tmp_path / "c", seed=1)[0]["votes"]
    assert float(noise.std()) == pytest.approx(5 * math.sqrt(3) * math.sqrt(2), rel=0.25)


def test_the_noise_of_a_query_is_never_the_same_twice(tmp_path):
    drawn = []
    for name in "ab":
        one = lesson(SELECTED)
        account = Account(dataset="toy", relation="zero_out", epsilon=1e30, delta=1e-5, scopes={"train": 40})
        folder = tmp_path / name
        vault = Vault(toys(), "train", Ledger.open(folder / "l.json", account), one.charges(40), NoiseSource(), folder)
        drawn.append(one.query(vault, Quiet())["votes"])
    assert not (drawn[0] == drawn[1]).any()


@pytest.mark.parametrize("settings", [SELECTED, CENTRAL, FREQUENCY], ids=lambda s: s.kind)
def test_noise_without_end_leaves_nothing_of_the_images(settings, tmp_path):
    # The same noise, so large that it swamps them: what is made is the same for any images.
    made, public = [], Images(toys(60).x, torch.arange(60) % PUBLIC)
    for number, images in enumerate((toys(), Images(torch.zeros(40, *SHAPE, dtype=torch.uint8), torch.arange(40) % 3))):
        released, _ = asked(settings, images, tmp_path / str(number), sigma=1e30, rate=1.0)
        made.append(lesson(settings).images(released, public, Quiet()))
    assert torch.equal(made[0].x, made[1].x)
    assert torch.equal(made[0].y, made[1].y)


def test_a_class_takes_its_best_of_what_earlier_ones_left():
    votes = torch.tensor([[9.0, 8, 1, 0], [7.0, 9, 3, 2]])
    assert [each.tolist() for each in choose(votes, 2, "classes")] == [[0, 1], [2, 3]]
    assert [each.tolist() for each in choose(votes, 2, "scores")] == [[0, 3], [1, 2]]
    noised = torch.randn(5, 20, generator=seeding.generator(0, "votes")) * 1e6 - 1e7  # far below any mark for "taken"
    for assignment in ("classes", "scores"):
        chosen = torch.cat(choose(noised, 4, assignment))
        assert sorted(chosen.tolist()) == list(range(20))


def test_highest_votes_first_never_gives_less_in_all_than_the_worst_order():
    votes = torch.rand(6, 30, generator=seeding.generator(1, "votes"))
    total = {
        how: sum(float(votes[i][c].sum()) for i, c in enumerate(choose(votes, 3, how))) for how in ("classes", "scores")
    }
    assert total["scores"] >= total["classes"] - 0.5


def test_too_few_public_classes_are_refused_before_any_work():
    hundred = replace(TASK, classes=100, public_classes=tuple(map(str, range(1000))))
    with pytest.raises(ValueError, match=r"chooses 0\.05 of 1000 public classes, .* give ratio=0\.1 or more"):
        lesson(SELECTED.model_copy(update={"ratio": 0.05}), hundred)
    with pytest.raises(ValueError, match=r"needs a public set of at least 100 classes, one for each, not 12"):
        lesson(SELECTED, replace(TASK, classes=100))
    assert lesson(SELECTED.model_copy(update={"ratio": 0.05}), replace(hundred, classes=10)).each == 5
    assert lesson(SELECTED.model_copy(update={"ratio": 0.1}), hundred).each == 1


def test_a_part_of_other_classes_is_refused(tmp_path):
    other = replace(TASK, part=lambda name: Brightness(7))
    with pytest.raises(UserError, match="part semantics tells 7 classes apart, the public set has 12"):
        asked(SELECTED, toys(), tmp_path, task=other)
    with pytest.raises(UserError, match="give -P public="):
        asked(SELECTED, toys(), tmp_path, task=replace(TASK, public_classes=None))


def test_chosen_public_images_take_the_label_of_who_chose_them_and_the_choice_is_told():
    votes = torch.zeros(CLASSES, PUBLIC, dtype=torch.float64)
    for label in range(CLASSES):
        votes[label, 11 - label] = 100.0 + label
    public, log = Images(toys(60).x, torch.arange(60) % PUBLIC), Quiet()
    made = lesson(SELECTED).images({"votes": votes}, public, log)
    kept = public.y >= PUBLIC - CLASSES
    assert torch.equal(made.x, public.x[kept])
    assert torch.equal(made.y, 11 - public.y[kept])
    first = log.tables["selected"][0]
    assert (first["class"], first["public_class"], first["public_name"], first["noised_votes"]) == (0, 11, "p11", 100.0)
    ((name, _, picture),) = log.grids
    assert name == "selected-choice"
    assert picture.y.tolist() == [label for label in (11, 10, 9, 8) for _ in range(10)]


def test_examples_show_every_chosen_class_in_turn():
    public = Images(toys(24).x, torch.arange(24) % PUBLIC)
    row = examples(public, [torch.tensor([3, 5, 7])])
    assert row.y.tolist() == [3, 5, 7, 3, 5, 7, 3, 5, 7, 3]
    assert torch.equal(row.x[0], public.x[3])
    assert torch.equal(row.x[3], public.x[15])


def test_central_images_are_sums_over_a_public_number():
    x = torch.full((8, *SHAPE), 255, dtype=torch.uint8)
    images = Images(x, torch.tensor([0, 0, 0, 0, 0, 0, 1, 2]))
    feature = ClassSums(SHAPE, CLASSES, 2)
    total = feature.weighted_sum(images.x, images.y, torch.ones(8)).view(CLASSES, *feature.shape) * feature.bound
    assert torch.allclose(total[:, 0, 0, 0], torch.tensor([6.0, 1, 1, 0], dtype=torch.float64))
    made = lesson(CENTRAL.model_copy(update={"samples": 1, "batch": 8})).images({"sums": total[None]}, None, Quiet())
    # 8 records and 4 classes: two are expected of each; a class of one is half as bright, and one of none is black.
    assert made.x[:, 0, 4, 4].tolist() == [255, 128, 128, 0]
    assert made.y.tolist() == [0, 1, 2, 3]


def test_a_sum_takes_every_other_pixel_of_a_row_and_column():
    stream = seeding.generator(0, "x")
    x = torch.randint(0, 256, (3, 3, 8, 8), generator=stream, dtype=torch.uint8)
    feature = ClassSums((3, 8, 8), 2, 2)
    total = feature.weighted_sum(x, torch.tensor([0, 1, 1]), torch.tensor([1.0, 1.0, 0.5])) * feature.bound
    small = F.interpolate(x.double() / 255, scale_factor=0.5, mode="nearest").flatten(1)
    assert torch.allclose(total, torch.stack([small[0], small[1] + 0.5 * small[2]]))
    assert feature.norms(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), torch.tensor([0])).tolist() == [1.0]


def test_central_samples_are_charged_once_at_their_rate(tmp_path):
    released, events = asked(CENTRAL, toys(), tmp_path)
    assert released["sums"].shape == (3, CLASSES, 1, 4, 4)
    assert [(e.id, e.sigma, e.rate, e.count) for e in events] == [("train/central", 2.0, 0.5, 3)]
    with pytest.raises(UserError, match="batch=20 exceeds the 19 training images"):
        lesson(CENTRAL).charges(19)
    with pytest.raises(ValueError, match="scale=3 does not divide 8 pixels"):
        lesson(CENTRAL.model_copy(update={"scale": 3}))


def test_the_frequency_lesson_is_the_release_and_the_generator_of_dp_merf(tmp_path):
    released, events = asked(FREQUENCY, toys(), tmp_path, sigma=1e-9)
    assert [(e.id, e.rate, e.count) for e in events] == [("train/frequency", 1.0, 1)]
    features = lesson(FREQUENCY)._features()
    assert torch.allclose(
        released["total"], features.weighted_sum(toys().x, toys().y, torch.ones(40)).double(), atol=1e-4
    )
    log = Quiet()
    made = lesson(FREQUENCY).images(released, None, log)
    assert made.y.bincount().tolist() == [8, 8, 7, 7]
    assert made.x.shape == (30, *SHAPE)
    assert log.phases["generator"].snapshot["step"] == 5
    assert torch.equal(made.x, lesson(FREQUENCY).images(released, None, Quiet()).x)
