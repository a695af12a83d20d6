"""Standard layers whose backward pass writes one weight gradient per record, K rows folded into the contraction.

Each function computes what its layer computes. Its backward pass returns the gradient of the input, puts the
per-record gradients of the weights [b, *shape] into a `Sink`, and gives autograd none for the weights. So
nothing of size [b K, *shape] ever exists, and the sum over the batch is not computed in vain.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dpib.privacy.per_record.base import Unsupported

ConvWeights: TypeAlias = Callable[[nn.Conv2d, Tensor, Tensor, Tensor], Tensor]
"""Maps (layer, weight, gradient of the output [b, K, ...], input [b, K, ...]) to weight gradients [b, *shape]."""


class Sink:
    """Collects per-record gradients by parameter; a layer that is called twice adds up."""

    def __init__(self, records: int, conv_weights: ConvWeights) -> None:
        self.records, self.conv_weights = records, conv_weights
        self.of: dict[int, Tensor] = {}

    def add(self, parameter: Tensor | None, gradient: Callable[[], Tensor]) -> None:
        """Add `gradient()` [b, *shape] to that of `parameter`, unless it is absent or frozen."""
        if parameter is not None and parameter.requires_grad:
            value, key = gradient().to(parameter.dtype), id(parameter)
            self.of[key] = self.of[key] + value if key in self.of else value

    def by_record(self, tensor: Tensor) -> Tensor:
        """Split the rows [b K, ...] of a layer's tensor into [b, K, ...]."""
        if len(tensor) % self.records:
            raise Unsupported(f"a layer gets {len(tensor)} rows for {self.records} records")
        return tensor.reshape(self.records, -1, *tensor.shape[1:])


def _lowered(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Return tensors in what autocast multiplies in, which it asks of ordinary layers by itself."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return (x, *others)
    return tuple(None if t is None else t.to(torch.get_autocast_dtype(kind)) for t in (x, *others))


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Linear, sink: Sink) -> Tensor:
        x, weight, bias = _lowered(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.sink = layer, sink
        y: Tensor = nn.functional.linear(x, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), layer, sink = ctx.saved_tensors, ctx.layer, ctx.sink
        y_rows, x_rows = (sink.by_record(t).flatten(1, -2) for t in (gy, x))
        sink.add(layer.weight, lambda: torch.bmm(y_rows.mT, x_rows))
        sink.add(layer.bias, lambda: y_rows.sum(1))
        return gy @ weight if ctx.needs_input_grad[0] else None, None, None, None, None


class _Conv2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d, sink: Sink) -> Tensor:
        x, weight, bias = _lowered(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.sink = layer, sink
        return nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), layer, sink = ctx.saved_tensors, ctx.layer, ctx.sink
        gx = _conv_backward(layer, weight, gy, x, 0) if ctx.needs_input_grad[0] else None
        sink.add(layer.weight, lambda: sink.conv_weights(layer, weight, sink.by_record(gy), sink.by_record(x)))
        sink.add(layer.bias, lambda: sink.by_record(gy).sum((1, 3, 4)))
        return gx, None, None, None, None


def _conv_backward(
    layer: nn.Conv2d, weight: Tensor, gy: Tensor, x: Tensor, which: int, groups: int | None = None
) -> Tensor:
    """Return the gradient of a convolution's input (`which` = 0) or of its weight, summed over rows (1)."""
    how = (list(layer.stride), list(layer.padding), list(layer.dilation), False, [0, 0], groups or layer.groups)
    mask = [which == 0, which == 1, False]
    result = torch.ops.aten.convolution_backward(gy, x, weight, None, *how, mask)[which]
    assert isinstance(result, Tensor)
    return result


def one_by_one(layer: nn.Conv2d, weight: Tensor, gy: Tensor, x: Tensor) -> Tensor:
    """Return weight gradients [b, *shape] from [b, K, ...]: the library's own kernel, a record at a time."""
    out = layer.weight.new_empty(len(gy), *weight.shape)
    for i in range(len(gy)):
        out[i] = _conv_backward(layer, weight, gy[i], x[i], 1)
    return out


def group_by_record(layer: nn.Conv2d, weight: Tensor, gy: Tensor, x: Tensor) -> Tensor:
    """Return weight gradients [b, *shape] from [b, K, ...]: one convolution of K rows with a group for every record."""
    b = len(x)
    wide_gy, wide_x = (t.transpose(0, 1).flatten(1, 2) for t in (gy, x))
    wide = weight.new_empty(b * weight.shape[0], *weight.shape[1:])  # only its shape is asked for
    return _conv_backward(layer, wide, wide_gy, wide_x, 1, b * layer.groups).view(b, *weight.shape)


def unfolded(layer: nn.Conv2d, weight: Tensor, gy: Tensor, x: Tensor) -> Tensor:
    """Return weight gradients [b, *shape] from [b, K, ...] by one product that contracts K and all positions."""
    b, k, g = *gy.shape[:2], layer.groups
    assert not isinstance(layer.padding, str)  # see forward_into
    patches = nn.functional.unfold(
        x.flatten(0, 1), weight.shape[2:], layer.dilation, layer.padding, layer.stride
    )  # [b K, C * kernel, positions]
    left = gy.reshape(b, k, g, gy.shape[2] // g, -1)
    right = patches.view(b, k, g, patches.shape[1] // g, -1)
    return torch.einsum("bkgop,bkgip->bgoi", left, right).reshape(b, *weight.shape)


class _GroupNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: nn.GroupNorm, sink: Sink) -> Tensor:
        x = x.contiguous().to(weight.dtype)
        n, c = x.shape[:2]
        ctx.size = (n, c, x[0, 0].numel(), layer.num_groups)
        y, mean, rstd = torch.ops.aten.native_group_norm(x, weight, bias, *ctx.size, layer.eps)
        ctx.save_for_backward(x, mean, rstd)
        ctx.layer, ctx.sink = layer, sink
        assert isinstance(y, Tensor)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        (x, mean, rstd), layer, sink = ctx.saved_tensors, ctx.layer, ctx.sink
        # All rows as one with n times the channels: what is summed over rows is then summed over one.
        n, c, pixels, groups = ctx.size
        tensors = (t.contiguous().view(1, -1, *t.shape[2:]) for t in (gy, x, mean, rstd))
        mask = [ctx.needs_input_grad[0], True, True]
        gx, scales, shifts = torch.ops.aten.native_group_norm_backward(
            *tensors, layer.weight.repeat(n), 1, n * c, pixels, n * groups, mask
        )
        sink.add(layer.weight, lambda: sink.by_record(scales.view(n, c)).sum(1))
        sink.add(layer.bias, lambda: sink.by_record(shifts.view(n, c)).sum(1))
        return gx.view_as(x) if ctx.needs_input_grad[0] else None, None, None, None, None


class _LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.LayerNorm, sink: Sink) -> Tensor:
        x = x.to(weight.dtype)
        y, mean, rstd = torch.native_layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        ctx.save_for_backward(x, mean, rstd)
        ctx.layer, ctx.sink = layer, sink
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        (x, mean, rstd), layer, sink = ctx.saved_tensors, ctx.layer, ctx.sink
        gx = None
        if ctx.needs_input_grad[0]:
            how = (list(layer.normalized_shape), mean, rstd, layer.weight, layer.bias, [True, False, False])
            gx = torch.ops.aten.native_layer_norm_backward(gy, x, *how)[0]
        others = tuple(range(1, x.dim() - len(layer.normalized_shape) + 1))
        sink.add(layer.weight, lambda: sink.by_record(gy * (x - mean) * rstd).sum(others))
        sink.add(layer.bias, lambda: sink.by_record(gy).sum(others))
        return gx, None, None, None, None


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, weight: Tensor, layer: nn.Embedding, sink: Sink) -> Tensor:
        ctx.save_for_backward(index)
        ctx.layer, ctx.sink = layer, sink
        return nn.functional.embedding(index, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[None, ...]:
        (index,), layer, sink = ctx.saved_tensors, ctx.layer, ctx.sink

        def scattered() -> Tensor:
            table = gy.new_zeros(sink.records * layer.num_embeddings, layer.embedding_dim)
            offset = torch.arange(sink.records, device=index.device)[:, None] * layer.num_embeddings
            places = sink.by_record(index).flatten(1) + offset
            rows = gy.reshape(-1, layer.embedding_dim)
            return table.index_add_(0, places.flatten(), rows).view(sink.records, *layer.weight.shape)

        sink.add(layer.weight, scattered)
        return None, None, None, None


def forward_into(layer: nn.Module, sink: Sink) -> Callable[[Tensor], Tensor]:
    """Return a forward function for `layer` whose backward pass fills `sink`.

    Raises:
        Unsupported: for a kind of layer, or a setting, that is not covered.
    """
    kind = type(layer)
    if kind is nn.Embedding and layer.padding_idx is None and layer.max_norm is None and not layer.scale_grad_by_freq:
        return lambda index: _Embedding.apply(index, layer.weight, layer, sink)
    function = {nn.Linear: _Linear, nn.Conv2d: _Conv2d, nn.GroupNorm: _GroupNorm, nn.LayerNorm: _LayerNorm}.get(kind)
    if function is None or getattr(layer, "padding_mode", "zeros") != "zeros" or layer.weight is None:
        raise Unsupported(f"no folded gradient for {kind.__name__} with these settings")
    if isinstance(getattr(layer, "padding", 0), str):
        raise Unsupported(f"no folded gradient for {kind.__name__} with padding {layer.padding!r}")
    return lambda x: function.apply(x, layer.weight, layer.bias, layer, sink)
