"""Models whose records cannot be told apart, refused by the name of the layer."""

import torch
from torch import nn

from dpib.errors import UserError
from dpib.privacy.per_record.base import RecordLoss, Rows, trainable

_STATEFUL = (nn.modules.batchnorm._BatchNorm,)


def refuse(model: nn.Module, loss: RecordLoss, rows: Rows) -> None:
    """Check that `model` treats every record on its own; `rows` are draws of random images.

    Raises:
        UserError: naming the first layer, parameter or buffer that stands in the way.
    """
    for name, module in model.named_modules():
        _refuse_layer(name or "the model", module)
    if not trainable(model):
        raise UserError("the model has no trainable parameters: unfreeze some of it")
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise UserError(f"parameter {name} is {parameter.dtype}: clipping needs float32, call model.float()")
    _refuse_moving_buffers(model, loss, rows)


def _refuse_layer(name: str, module: nn.Module) -> None:
    from opacus.validators import ModuleValidator  # takes seconds, and most commands train nothing

    # Opacus looks at trainable layers only; a frozen one mixes records all the same.
    validator = ModuleValidator.VALIDATORS.get(type(module))
    if isinstance(module, _STATEFUL) or (validator is not None and validator(module)):
        raise UserError(
            f"{name} is {type(module).__name__}, which mixes records, keeps running statistics or has no "
            "per-record gradient: use GroupNorm, LayerNorm or the layers that opacus offers in its place"
        )


def _refuse_moving_buffers(model: nn.Module, loss: RecordLoss, rows: Rows) -> None:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        loss.per_row(model, *(row[0] for row in rows))
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, before[name]):
            buffer.copy_(before[name])
            raise UserError(f"buffer {name} changes in the forward pass, so it would carry records: remove it")
