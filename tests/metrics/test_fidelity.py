"""Features and fidelity metrics against closed forms, and what happens where weights cannot be had."""

import math
import tempfile

import pytest
import torch

from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics import features as module
from dpib.metrics.features import Features, extract, inception_embedding, random_embedding, weights_file
from dpib.metrics.fidelity import Unavailable, fid, inception_score, kid, precision_recall
from dpib.stages.fidelity import recordable

CPU = torch.device("cpu")


def cloud(n, d, shift=0.0, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Features(torch.randn(n, d, generator=g) * scale + shift)


def test_fid_of_gaussians_is_the_closed_form():
    """Between N(0, I) and N(m, s^2 I) it is |m|^2 + d (1 - s)^2."""
    found = fid(cloud(40_000, 4), cloud(40_000, 4, shift=0.5, scale=2.0, seed=1))["fid"]
    assert found == pytest.approx(4 * 0.25 + 4 * 1.0, rel=0.03)


def test_fid_of_a_set_with_itself_is_zero():
    assert fid(cloud(500, 6), cloud(500, 6))["fid"] == pytest.approx(0, abs=1e-6)


def test_kid_is_zero_for_the_same_distribution_and_positive_for_another():
    assert abs(kid(cloud(3000, 8), cloud(3000, 8, seed=1))["kid"]) < 5e-3
    assert kid(cloud(3000, 8), cloud(3000, 8, shift=0.5, seed=1))["kid"] > 0.1


def test_kid_of_small_sets_uses_what_there_is():
    assert math.isfinite(kid(cloud(50, 8), cloud(40, 8, seed=1))["kid"])


def test_precision_and_recall_tell_fidelity_from_coverage():
    real = cloud(800, 3)
    narrow = precision_recall(cloud(800, 3, scale=0.05, seed=1), real)
    assert narrow["precision"] > 0.9
    assert narrow["recall"] < 0.2
    far = precision_recall(cloud(800, 3, shift=50, seed=1), real)
    assert far == {"precision": 0.0, "recall": 0.0}


def test_inception_score_of_certain_balanced_classes_is_their_number():
    logits = torch.eye(5).repeat(2000, 1) * 1e3
    found = inception_score(Features(torch.zeros(10_000, 2), logits), cloud(4, 2))
    assert found["inception_score"] == pytest.approx(5, rel=0.01)


def test_what_cannot_be_computed_says_why():
    with pytest.raises(Unavailable, match="classifier head"):
        inception_score(cloud(10, 2), cloud(10, 2))
    for metric in (fid, kid, precision_recall):
        with pytest.raises(Unavailable, match="at least"):
            metric(cloud(1, 2), cloud(10, 2))


def images(n, seed=0, channels=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, 28, 28), generator=g, dtype=torch.uint8)
    return Images(x, torch.zeros(n, dtype=torch.int64))


def test_the_random_embedding_is_fixed_and_separates():
    a, b = random_embedding(CPU), random_embedding(CPU)
    assert a.identity == b.identity
    assert a.prefix == "fidelity_random"
    x = images(4).x.expand(-1, 3, -1, -1)
    assert torch.equal(a.network(x)[0], b.network(x)[0])
    assert a.network(x)[0].shape == (4, 256)
    torch.manual_seed(99)
    assert random_embedding(CPU).identity == a.identity


def test_features_are_cached_by_content_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 10)
    embedding, calls = random_embedding(CPU), []
    counted = type(embedding)(
        embedding.prefix, embedding.identity, lambda x: calls.append(len(x)) or embedding.network(x), False
    )
    first = extract(counted, images(25).x, 4, tmp_path, "a")
    assert sum(calls) == 25
    again = extract(counted, images(25).x, 4, tmp_path, "a")
    assert sum(calls) == 25
    assert torch.equal(first.pool, again.pool)
    # The same name with other content is computed anew; shared blocks are not.
    changed = images(25).x.clone()
    changed[24] = 0
    extract(counted, changed, 4, tmp_path, "a")
    assert sum(calls) == 30


def test_batch_size_does_not_change_features(tmp_path):
    e = random_embedding(CPU)
    a = extract(e, images(9).x, 2, tmp_path / "a", "")
    b = extract(e, images(9).x, 9, tmp_path / "b", "")
    assert torch.allclose(a.pool, b.pool, atol=1e-5)


@pytest.fixture
def inception_state():
    """Return Inception weights of the right shapes, without a classifier head."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        state = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()
    state["fc.weight"].fill_(float("nan"))
    return state


def test_local_inception_weights_without_a_head(tmp_path, inception_state, monkeypatch):
    torch.save(inception_state, tmp_path / "w.pth")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))  # nothing is written to load them
    embedding = inception_embedding(tmp_path / "w.pth", CPU)
    assert embedding.prefix == "fidelity"
    assert not embedding.has_logits
    found = extract(embedding, images(2).x, 2, tmp_path / "cache", "")
    assert found.pool.shape == (2, 2048)
    assert found.logits is None


def test_inception_with_its_normalisation_folded_gives_the_features_of_torch_fidelity(tmp_path, inception_state):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    stream = torch.Generator().manual_seed(0)
    for name, value in inception_state.items():
        if ".bn." in name and value.is_floating_point():  # scales and variances differ from one, shifts from nought
            value += torch.rand(value.shape, generator=stream)
    torch.save(inception_state, tmp_path / "w.pth")
    plain = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(tmp_path / "w.pth")
    )
    x = images(3).x.expand(-1, 3, -1, -1)
    (wanted,), (found, _) = plain(x), inception_embedding(tmp_path / "w.pth", CPU).network(x)
    assert float(wanted.std()) > 0
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not hold torch-fidelity's Inception weights"):
        inception_embedding(tmp_path / "w.pth", CPU)


class Gadget:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


def test_hostile_weights_are_not_executed(tmp_path):
    import pickle

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Gadget(tmp_path / "gone-off")))
    with pytest.raises(UserError, match="cannot be loaded safely"):
        inception_embedding(tmp_path / "w.pth", CPU)
    torch.save({"fc.weight": Gadget(tmp_path / "gone-off")}, tmp_path / "v.pth")
    with pytest.raises(UserError, match="cannot be loaded safely"):
        inception_embedding(tmp_path / "v.pth", CPU)
    assert not (tmp_path / "gone-off").exists()


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent.pth do not exist"):
        weights_file(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (3.0, "returns a float, not numbers by name"),
        ({1: 2.0}, "not numbers by name"),
        ({"mine": "high"}, "its 'mine' is a str, not a number"),
        ({"mine": float("nan")}, "its 'mine' is nan"),
        ({"mine": torch.tensor(float("inf"))}, "its 'mine' is inf"),
        ({"a/../b": 1.0}, "cannot be tracked"),
        ({"50 % of mine": 1.0}, "cannot be tracked"),
        ({"..": 1.0}, "cannot be tracked"),
        ({"fid": 1.0}, "its name 'fid' belongs to another metric"),
    ],
)
def test_what_a_metric_from_outside_returns_is_checked(values, says):
    with pytest.raises(Unavailable, match=says):
        recordable(values, "fidelity", "", {"fidelity/fid": 2.0})


def test_numbers_of_any_kind_are_tracked_under_the_prefix():
    found = recordable({"a_b": torch.tensor(2.0), "c.d e": 1}, "fidelity", "_test", {})
    assert found == {"fidelity/a_b_test": 2.0, "fidelity/c.d e_test": 1.0}
