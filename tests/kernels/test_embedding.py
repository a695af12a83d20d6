"""The feature of a labelled record: for any map its norm is measured, and classes are counted in the same release."""

import pytest
import torch

from dpib import seeding
from dpib.errors import UserError
from dpib.kernels.embedding import Embedding, embedding
from dpib.kernels.features import rows_of
from dpib.kernels.fourier import FourierSettings
from dpib.kernels.joined import JoinedFeatures, JoinedSettings
from dpib.registry import chosen
from dpib.section import checked

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
FOURIER = {"kind": "fourier", "dimension": 40, "bandwidths": [30.0]}
JOINED = {"kind": "joined", "maps": [FOURIER, {**FOURIER, "bandwidths": [200.0]}], "shares": [0.7, 0.3]}


def images(n=30):
    return torch.randint(0, 256, (n, *SHAPE), generator=seeding.generator(0, "x"), dtype=torch.uint8)


def feature(settings=FOURIER, w=0.1):
    read = chosen("features")({**settings, "count_weight": w})
    return embedding(read, SHAPE, 3, seeding.generator(0, "w"), CPU)


class Pixels:
    """Pixels as they are: a map from outside that keeps no norm."""

    dimension = 64

    def map(self, x):
        return x.flatten(1)


def lengths(f, x):
    return [float(f.weighted_sum(x[i : i + 1], torch.tensor([i % 3]), torch.ones(1)).norm()) for i in range(len(x))]


@pytest.mark.parametrize(
    "f",
    [feature(w=2.0), feature(JOINED), Embedding(Pixels(), 3, 0.5, CPU)],
    ids=["fourier", "joined", "pixels"],
)
def test_the_record_feature_has_the_norm_that_it_claims(f):
    x = images(5)
    assert f.norms(x, torch.zeros(5)).tolist() == pytest.approx(lengths(f, x), abs=1e-5)


def test_a_norm_above_one_is_told_and_not_assumed_away():
    white = torch.full((1, *SHAPE), 255, dtype=torch.uint8)
    assert float(Embedding(Pixels(), 3, 0.5, CPU).norms(white, torch.zeros(1))) == pytest.approx((64.25 / 1.25) ** 0.5)


def test_a_record_whose_feature_is_not_finite_adds_nothing():
    class Poisoned(Pixels):
        def map(self, x):
            return torch.where(x.flatten(1)[:, :1] == 1, torch.nan, x.flatten(1))

    x, y = images(4), torch.tensor([0, 1, 2, 0])
    x[:, 0, 0, 0] = torch.tensor([0, 255, 0, 0])
    f = Embedding(Poisoned(), 3, 0.5, CPU)
    norms = f.norms(x, y)
    assert torch.isfinite(norms).tolist() == [True, False, True, True]
    total = f.weighted_sum(x, y, torch.isfinite(norms).double())
    assert torch.allclose(total, f.weighted_sum(x[[0, 2, 3]], y[[0, 2, 3]], torch.ones(3)))
    assert f.weighted_sum(x, y, torch.zeros(4)).eq(0).all()


def test_class_means_and_proportions_come_back_from_the_sum():
    f, x = feature(w=0.5), images()
    y = torch.arange(30) % 3 * (torch.arange(30) % 3 > 0)
    means, proportions = f.class_means(f.weighted_sum(x, y, torch.ones(30)).double())
    for c in range(3):
        mine = f.rows(x[y == c].float() / 255).sums(torch.full((1, 10), 0.1))[0]
        assert float((means[c] - mine).abs().max()) < 1e-5
    assert proportions.tolist() == pytest.approx([10 / 30, 10 / 30, 10 / 30])


def test_a_class_whose_noised_count_is_negative_still_has_a_mean():
    means, proportions = feature().class_means(-torch.ones(3, 41, dtype=torch.float64))
    assert torch.isfinite(means).all()
    assert (proportions > 0).all()


def test_joined_maps_have_the_mean_of_their_kernels():
    x = images(6).float() / 255
    joined = JoinedFeatures(chosen("features")(JOINED), SHAPE, seeding.generator(0, "w"), CPU)
    phi, parts = joined.map(x), [features.map(x) for features in joined._maps]
    assert torch.allclose(phi @ phi.T, 0.7 * parts[0] @ parts[0].T + 0.3 * parts[1] @ parts[1].T, atol=1e-6)
    assert torch.allclose(phi.norm(dim=1), torch.ones(6))
    rows, assign = rows_of(joined, x), torch.rand(3, 6)
    assert rows.norms().tolist() == pytest.approx([1.0] * 6)
    means = torch.randn(3, joined.dimension)
    met, squares = rows.against(assign, means)
    assert torch.allclose(rows.sums(assign), assign @ phi, atol=1e-6)
    assert torch.allclose(met, ((assign @ phi) * means).sum(1), atol=1e-5)
    assert torch.allclose(squares, (assign @ phi).square().sum(1), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shares": [0.7, 0.7]}, "add to 1"),
        ({"shares": [1.0]}, "shares must be 2 numbers"),
        ({"shares": [2.0, -1.0]}, "greater than 0"),
        ({"maps": [{**FOURIER, "count_weight": 1.0}], "shares": [1.0]}, "beside them"),
        ({"maps": [{"kind": "wavelet"}], "shares": [1.0]}, "unknown features 'wavelet'"),
    ],
)
def test_joined_maps_whose_norm_would_not_be_one_are_refused(changed, said):
    found = checked(JoinedSettings, {**JOINED, **changed})
    assert isinstance(found, list)
    assert said in " ".join(found)


def test_a_map_that_is_not_as_long_as_it_says_is_refused():
    class Short(Pixels):
        dimension = 65

    with pytest.raises(UserError, match=r"Short.map returned \[2, 64\] for 2 images, not \[2, 65\]"):
        Embedding(Short(), 3, 0.5, CPU).norms(images(2), torch.zeros(2))


def test_every_kind_has_the_weight_of_counts():
    assert FourierSettings(**FOURIER).count_weight == 0.1
