"""The part `classifier`: fitted from nothing, or a discriminant on the features of weights from outside."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dpib.errors import UserError
from dpib.images import Images
from dpib.parts.classifier import Classifier, ClassifierSettings, Scorer, load_backbone
from dpib.synthesizer import Task
from tests.quiet import Quiet

TASK = Task((1, 28, 28), 10, 0, torch.device("cpu"), public_classes=("dark", "middle", "bright"))
SMALL = {"kind": "classifier", "model": "resnet10t", "stride": 4, "batch": 20, "epochs": 4, "lr": 0.05}


def settings(**changed):
    return ClassifierSettings(**{**SMALL, **changed})


def shades(n=90):
    y = torch.arange(n) % 3
    noise = torch.randint(0, 40, (n, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    return Images((100 * y.view(-1, 1, 1, 1) + noise).clamp(max=255).to(torch.uint8), y)


def test_a_classifier_learns_the_public_classes_and_comes_back_as_it_was():
    part, log = Classifier(settings(), TASK), Quiet()
    part.fit(shades(), log)
    scores = part.network()(shades().x)
    assert scores.shape == (90, 3)
    assert float((scores.argmax(1) == shades().y).float().mean()) > 0.9
    assert log.snapshot["step"] == 4 * (81 // 20)
    other = Classifier(settings(), Task(TASK.shape, 10, 5, TASK.device))
    other.load_state_dict(part.state_dict())
    assert torch.equal(other.network()(shades().x), scores)
    assert int(other.network().get_buffer("classes")) == 3


def test_it_repeats_from_its_seed():
    ends = []
    for seed in (0, 0, 1):
        part = Classifier(settings(epochs=1), replace(TASK, seed=seed))
        part.fit(shades(), Quiet())
        ends.append(part.state_dict()["network"]["head.weight"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_weights_from_outside_make_features_whatever_classes_they_were_trained_for(tmp_path):
    whole = timm.create_model("resnet10t", pretrained=False, num_classes=1000)
    by_name, by_order = tmp_path / "named.safetensors", tmp_path / "ordered.pth"
    save_file(dict(whole.state_dict()), by_name)
    torch.save({f"layer{i}": v for i, v in enumerate(whole.state_dict().values())}, by_order)
    found = []
    for file in (by_name, by_order):
        part = Classifier(settings(stride=None, weights=str(file)), TASK)
        part.fit(shades(), Quiet())
        assert float((part.network()(shades().x).argmax(1) == shades().y).float().mean()) > 0.9
        found.append(part.state_dict()["network"])
    assert torch.equal(found[0]["backbone.conv1.0.weight"], whole.conv1[0].weight)
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_the_discriminant_is_fishers():
    scorer = Scorer(settings(), 3).eval()
    scorer.features = lambda x: torch.stack([x.float().mean((1, 2, 3)), x.float().std((1, 2, 3))], 1)
    scorer.head = nn.Linear(2, 3)
    images = shades()
    scorer.discriminate(images, torch.device("cpu"))
    found = scorer.features(images.x).double()
    means = torch.stack([found[images.y == label].mean(0) for label in range(3)])
    apart = found - means[images.y]
    pooled = apart.T @ apart / len(found)
    shrunk = 0.9 * pooled + 0.1 * pooled.diagonal().mean() * torch.eye(2)
    distance = torch.stack([((found - m) @ torch.linalg.inv(shrunk) * (found - m)).sum(1) for m in means], 1)
    assert torch.equal(scorer.head(found.float()).argmax(1), distance.argmin(1))


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    hostile = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(3)}, hostile)
    part = Classifier(settings(), TASK)
    with pytest.raises(UserError, match=r"does not hold weights of this network: .* is missing, by name and by order"):
        load_backbone(part.network().backbone, str(hostile))
    with pytest.raises(UserError, match=r"none\.pth do not exist: give the part's weights a file"):
        load_backbone(part.network().backbone, str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="model=resnet999"):
        Classifier(settings(model="resnet999"), TASK)
    with pytest.raises(ValueError, match="stride is for resnets, tf_efficientnet_lite0 is none"):
        Classifier(settings(model="tf_efficientnet_lite0"), TASK)
    with pytest.raises(UserError, match="27 public images do not fill a batch of 28"):
        Classifier(settings(batch=28), TASK).fit(shades(30), Quiet())
    with pytest.raises(UserError, match="not one of a classifier with model=resnet10t"):
        part.load_state_dict({"network": {"classes": torch.tensor(3)}})
    with pytest.raises(UserError, match="not one of a classifier"):
        part.load_state_dict({})


def test_only_some_images_of_a_class_are_looked_at_where_so_many_are_asked_for():
    part, log = Classifier(settings(per_class=10, batch=9, epochs=1), TASK), Quiet()
    part.fit(shades(), log)
    assert log.snapshot["step"] == 27 // 9
