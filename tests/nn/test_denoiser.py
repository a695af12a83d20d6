"""The U-Net: sizes close to the published ones, refusals, silence at the start, records kept apart."""

import pytest
import torch

from dpib.nn.denoiser import PRESETS, Denoiser, DenoiserSettings

TINY = {"nf": 8, "ch_mult": [1, 2], "attn_resolutions": [7], "blocks": 1}


def make(shape=(1, 14, 14), classes=3, **changed):
    torch.manual_seed(0)
    return Denoiser(DenoiserSettings(**{**TINY, **changed}), shape, classes)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_is_within_six_percent_of_its_published_size(preset):
    settings = DenoiserSettings(**{**TINY, "blocks": 2}, preset=preset)
    with torch.device("meta"):
        count = sum(p.numel() for p in Denoiser(settings, (3, 32, 32), 10).parameters())
    assert count / 1e6 == pytest.approx(float(preset.removesuffix("M")), rel=0.06)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 128, 128)])
@pytest.mark.parametrize("patch", [1, 2])
def test_every_image_size_goes_in_and_comes_out(shape, patch):
    model = make(shape, ch_mult=[1, 1], attn_resolutions=[shape[1] // 4], patch=patch)
    x = torch.randn(1, *shape)
    assert model(x, torch.zeros(1), torch.zeros(1, dtype=torch.int64)).shape == x.shape


def test_it_starts_as_zero_and_yet_learns():
    model = make()
    x, labels = torch.randn(2, 1, 14, 14), torch.tensor([0, 3])
    out = model(x, torch.zeros(2), labels)
    assert not out.any()
    (out - 1).square().mean().backward()
    assert model.network.conv_out.weight.grad.abs().sum() > 0


def test_the_null_label_is_the_last_embedding():
    assert make().null == 3
    assert make(label_dim=20).null == 20
    assert make(label_dim=20).network.class_embedding.weight.shape[0] == 21


def test_records_and_levels_and_labels_do_not_mix():
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x, c_noise, labels = torch.randn(3, 1, 14, 14), torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0, 1, 3])
    together = model(x, c_noise, labels)
    alone = torch.cat([model(x[i : i + 1], c_noise[i : i + 1], labels[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, model(x, c_noise, labels.flip(0)), atol=1e-3)
    assert not torch.allclose(together, model(x, c_noise.flip(0), labels), atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"shape": (1, 14, 16)}, "square images"),
        ({"ch_mult": [1, 2, 2]}, "side divisible by 4"),
        ({"patch": 2, "ch_mult": [1, 1, 1]}, "side divisible by 8"),
        ({"label_dim": 2}, "network.label_dim=2 is less than the 3 classes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changed, says):
    with pytest.raises(ValueError, match=says):
        make(**changed)
