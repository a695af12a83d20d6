"""How many records fit into memory at a time."""

import torch
from torch import Tensor, nn

from dpib.hardware import free_memory
from dpib.privacy.per_record.base import RecordLoss, Rows, trainable

_SHARE = 0.5  # of the free memory; the rest is for the optimiser, the data and the allocator's waste
_MOST = 512  # larger chunks were no faster


def fitting(model: nn.Module, loss: RecordLoss, rows: Rows, share: float = _SHARE) -> int:
    """Return how many records to process at a time, at least 1; `rows` holds the draws of a probe record."""
    device = rows[0].device
    gradients = sum(p.numel() * p.element_size() for p in trainable(model))
    # Gradients stand twice for a moment: as computed and as scaled; activations with their gradients.
    needed = 2 * gradients + 2 * _activations(model, loss, rows)
    free = free_memory(device)
    if free is None:
        raise RuntimeError("the system does not tell the free memory: give physical")
    return int(min(max(1, share * free // needed), _MOST))


def _activations(model: nn.Module, loss: RecordLoss, rows: Rows) -> int:
    """Return the bytes that autograd keeps for the K rows of one record, beside the parameters themselves."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss.per_row(model, *(row[0] for row in rows)).mean()
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())
