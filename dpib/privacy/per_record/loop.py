"""One record at a time, its K rows as the batch: right by construction, and the measure of the others.

No record ever shares a tensor with another one. With many rows per record it is also the fastest way
on a CPU, and it needs the least memory.
"""

import torch
from torch import Tensor, nn

from dpib.privacy.per_record.base import RecordLoss, Rows, bounded, factors, norms, trainable


def clipped_sum(model: nn.Module, loss: RecordLoss, rows: Rows, clip: float) -> list[Tensor]:
    """Return the sum over records of clipped gradients (see `base.ClippedSum`)."""
    parameters = trainable(model)
    total = [torch.zeros_like(p) for p in parameters]
    for record in zip(*rows, strict=True):
        value = loss.per_row(model, *record).mean()
        # Embeddings may give sparse gradients.
        gradients = [g.to_dense() for g in torch.autograd.grad(value, parameters, materialize_grads=True)]
        (norm,) = norms([torch.cat([g.flatten() for g in gradients])[None]])
        if bool(bounded(norm)):
            torch._foreach_add_(total, torch._foreach_mul(gradients, float(factors(norm, clip))))
    return total
