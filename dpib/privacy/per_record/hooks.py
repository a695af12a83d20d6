"""Opacus' hooks, for one draw per record, with its convolution sampler set right.

Opacus 1.6.0 unfolds a convolution's input as if it lay in memory channel by channel. diffusers' attention
blocks hand on channels_last tensors, and every convolution after one gets a wrong gradient, silently.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample.conv import compute_conv_grad_sample
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import Tensor, nn

from dpib.privacy.per_record.base import RecordLoss, Rows, Unsupported, clip_and_sum, trainable


def contiguous_conv(layer: nn.Module, inputs: list[Tensor], outputs: Tensor) -> dict[nn.Parameter, Tensor]:
    """Return Opacus' per-record gradients of a convolution, from tensors laid out as Opacus takes for granted."""
    found: dict[nn.Parameter, Tensor] = compute_conv_grad_sample(
        layer, [t.contiguous() for t in inputs], outputs.contiguous()
    )
    return found


def clipped_sum(model: nn.Module, loss: RecordLoss, rows: Rows, clip: float) -> list[Tensor]:
    """Return the sum over records of clipped gradients (see `base.ClippedSum`)."""
    records, draws = rows[0].shape[:2]
    if draws > 1:
        raise Unsupported("Opacus keeps a gradient per draw, not per record: noise multiplicity is above 1")
    parameters = trainable(model)
    with _attached(model):
        losses = loss.per_row(model, *(row.flatten(0, 1) for row in rows))
        torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        gradients = [_found(p, records) for p in parameters]
    return clip_and_sum(gradients, clip)


def _found(parameter: nn.Parameter, records: int) -> Tensor:
    gradient = getattr(parameter, "grad_sample", None)
    if gradient is None:
        return parameter.new_zeros(records, *parameter.shape)
    if not isinstance(gradient, Tensor) or len(gradient) != records:
        raise Unsupported("Opacus kept no gradient per record for a parameter that is used more than once")
    return gradient


@contextmanager
def _attached(model: nn.Module) -> Iterator[None]:
    """Inside the block, Opacus' hooks fill `grad_sample` of the parameters; nothing of them stays."""
    if not all(module.training for module in model.modules()):
        raise Unsupported("Opacus' hooks do nothing in evaluation mode")
    before = {module: set(vars(module)) for module in model.modules()}
    try:
        hooks = GradSampleHooks(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise Unsupported(str(error).splitlines()[0]) from error
    hooks.GRAD_SAMPLERS = {**hooks.GRAD_SAMPLERS, **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), contiguous_conv)}
    try:
        with warnings.catch_warnings():
            # The first layer's input needs no gradient, and Opacus does not use it.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            yield
    except RuntimeError as error:
        raise Unsupported(f"Opacus: {str(error).splitlines()[0]}") from error
    finally:
        hooks.cleanup()
        for module, names in before.items():
            for name in set(vars(module)) - names:
                delattr(module, name)
