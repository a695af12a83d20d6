"""All records at once through the ordinary backward pass, with layers that keep their weights' gradients apart."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpib.privacy.per_record.base import RecordLoss, Rows, Unsupported, clip_and_sum, trainable
from dpib.privacy.per_record.layers import ConvWeights, Sink, forward_into, one_by_one, unfolded


def clipped_sum(model: nn.Module, loss: RecordLoss, rows: Rows, clip: float) -> list[Tensor]:
    """Return the sum over records of clipped gradients (see `base.ClippedSum`)."""
    return summed(model, loss, rows, clip, unfolded if rows[0].is_cuda else one_by_one)


def summed(model: nn.Module, loss: RecordLoss, rows: Rows, clip: float, conv_weights: ConvWeights) -> list[Tensor]:
    """Return the same, the weight gradients of convolutions computed by `conv_weights`."""
    records, draws = rows[0].shape[:2]
    parameters = trainable(model)
    sink = Sink(records, conv_weights)
    with _swapped(model, sink):
        losses = loss.per_row(model, *(row.flatten(0, 1) for row in rows))
        # Each record's loss is the mean of its rows; their sum keeps records apart.
        mixed = torch.autograd.grad(losses.sum() / draws, parameters, allow_unused=True)
    if any(gradient is not None for gradient in mixed):
        raise Unsupported("a parameter is used outside the forward pass of its layer")
    return clip_and_sum([_found(sink, p) for p in parameters], clip)


def _found(sink: Sink, parameter: nn.Parameter) -> Tensor:
    gradient = sink.of.get(id(parameter))
    return parameter.new_zeros(sink.records, *parameter.shape) if gradient is None else gradient


@contextmanager
def _swapped(model: nn.Module, sink: Sink) -> Iterator[None]:
    """Inside the block, layers with trainable parameters write per-record gradients into `sink`."""
    layers = [m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    try:
        for layer in layers:
            if "forward" in vars(layer):
                raise Unsupported(f"the forward pass of a {type(layer).__name__} is already replaced")
            layer.forward = forward_into(layer, sink)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
