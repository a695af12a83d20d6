"""Why dpib never runs Opacus' convolution sampler as installed (Opacus 1.6.0)."""

import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from dpib.privacy.per_record import hooks, loop
from dpib.privacy.per_record.draws import draw
from tests.privacy.nets import Denoise, Diffusers, Sequence, flat, make, toy


def opacus_sum(network, loss, rows):
    """Return the sum of per-record gradients by Opacus as it is installed."""
    wrapped = GradSampleModule(network, loss_reduction="sum")
    loss.per_row(wrapped, *(row.flatten(0, 1) for row in rows)).sum().backward()
    found = flat(p.grad_sample.sum(0) for p in network.parameters())
    wrapped.to_standard_module()
    return found


def errors(network, loss):
    rows = draw(loss, toy(3), torch.arange(3), 0, 0, torch.device("cpu"))
    expected = flat(loop.clipped_sum(network, loss, rows, 1e9))
    ours = flat(hooks.clipped_sum(network, loss, rows, 1e9))
    plain = opacus_sum(network, loss, rows)
    return [float((found - expected).norm() / expected.norm()) for found in (plain, ours)]


def test_opacus_is_wrong_on_a_channels_last_convolution_and_ours_is_right():
    network = make(lambda: Sequence(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)))
    network.to(memory_format=torch.channels_last)
    plain, ours = errors(network, Denoise(1, layout=torch.channels_last))
    assert plain > 0.1
    assert ours < 1e-5


def test_opacus_is_wrong_on_a_diffusers_network_with_attention_and_ours_is_right():
    """The attention block hands on a transposed view; every convolution behind it gets the wrong gradient."""
    plain, ours = errors(make(Diffusers), Denoise(1))
    assert plain > 0.05
    assert ours < 1e-5


def test_the_fix_stays_inside():
    from opacus.grad_sample.conv import compute_conv_grad_sample

    network, loss = make(lambda: Sequence(nn.Conv2d(1, 1, 3, padding=1))), Denoise(1)
    hooks.clipped_sum(network, loss, draw(loss, toy(2), torch.arange(2), 0, 0, torch.device("cpu")), 1.0)
    assert GradSampleModule.GRAD_SAMPLERS[nn.Conv2d] is compute_conv_grad_sample
