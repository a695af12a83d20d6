"""Models whose records cannot be told apart, or that carry them from step to step, refused by the name of the layer."""

import torch
from torch import Tensor, nn

from dpib import seeding
from dpib.errors import UserError
from dpib.privacy.per_record import loop
from dpib.privacy.per_record.base import RecordLoss, Rows, trainable
from dpib.privacy.per_record.blame import blamed
from dpib.privacy.per_record.probes import Probes, fewer
from dpib.privacy.per_record.state import Tensors, attributes

_STATEFUL = (nn.modules.batchnorm._BatchNorm,)
_RECORDS = 3
_LABELS = 64  # records at a time, of every label once
_SAME = 1e-3  # relative; a GPU does not repeat itself to the last bit


def refuse(model: nn.Module, loss: RecordLoss, probes: Probes) -> None:
    """Check that `model` treats every record on its own and keeps nothing of it; it is left as found.

    Raises:
        UserError: naming the first layer, parameter, buffer or attribute that stands in the way.
    """
    for name, module in model.named_modules():
        _refuse_layer(name or "the model", module)
    if not trainable(model):
        raise UserError("the model has no trainable parameters: unfreeze some of it")
    for name, parameter in model.named_parameters():
        _refuse_parameter(name, parameter)
    _refuse_mixed_rows(probes)
    _refuse_what_carries(model, loss, probes)


def _refuse_layer(name: str, module: nn.Module) -> None:
    from opacus.validators import ModuleValidator  # takes seconds, and most commands train nothing

    # Opacus looks at trainable layers only; a frozen one mixes records all the same.
    validator = ModuleValidator.VALIDATORS.get(type(module))
    if isinstance(module, _STATEFUL) or (validator is not None and validator(module)):
        raise UserError(
            f"{name} is {type(module).__name__}, which mixes records, keeps running statistics or has no "
            "per-record gradient: use GroupNorm, LayerNorm or the layers that opacus offers in its place"
        )
    if getattr(module, "max_norm", None) is not None:
        raise UserError(
            f"{name} is {type(module).__name__} with max_norm, which rewrites the rows of labels that occur: "
            "leave max_norm out"
        )


def _refuse_parameter(name: str, parameter: nn.Parameter) -> None:
    if parameter.dtype not in (torch.float32, torch.float64):
        raise UserError(f"parameter {name} is {parameter.dtype}: clipping needs float32, call model.float()")
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        raise UserError(f"parameter {name} has a hook, which would see gradients of single records: remove it")


def _refuse_mixed_rows(probes: Probes) -> None:
    """Compare what the loss draws for records together with what it draws for each alone."""
    for together, alone in probes.apart():
        for i, rows in enumerate(alone):
            for found, expected in zip(together, rows, strict=True):
                if not torch.allclose(found[i : i + 1].double(), expected.double(), _SAME, _SAME, equal_nan=True):
                    raise UserError("the loss draws rows of a record from the records beside it: draw each from itself")


def _refuse_what_carries(model: nn.Module, loss: RecordLoss, probes: Probes) -> None:
    """Run the record loop, and compare what the model holds before and after."""
    record = fewer(probes.random(1), 1)
    before = Tensors(model)
    try:
        first = _gradient(model, loss, record)
        # What is built at the first pass and then stays, such as a table of positions, carries no record.
        built = attributes(model)
        _gradient(model, loss, fewer(probes.random(_RECORDS), 1))
        with torch.no_grad(), blamed(model):
            for batch in (*probes.structured(), *probes.labels(_LABELS)):
                loss.per_row(model, *(row[:, 0] for row in batch))
        now = attributes(model)
    finally:
        changed = before.put_back()
    moved = [f"attribute {name}" for name in {**built, **now} if built.get(name) != now.get(name)]
    for name in [changed] if changed else moved:
        raise UserError(f"{name} changes in the forward pass, so it would carry records: remove it")
    if float((_gradient(model, loss, record) - first).norm()) > _SAME * float(first.norm()):
        raise UserError("the gradient of a record depends on the records before it: the model or its loss keeps them")


def _gradient(model: nn.Module, loss: RecordLoss, rows: Rows) -> Tensor:
    """Return the record loop's sum with a clip of 1, flat; layers that draw at random repeat themselves."""
    with seeding.seeded(0, "probe"), blamed(model):
        parts = loop.clipped_sum(model, loss, tuple(row.clone() for row in rows), 1.0)
    return torch.cat([part.flatten() for part in parts])
