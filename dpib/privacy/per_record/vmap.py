"""All records at once by `torch.func`: vmap over records of the gradient of the mean over K rows."""

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from dpib.privacy.per_record.base import RecordLoss, Rows, Unsupported, clip_and_sum


class _RecordMean(nn.Module):
    """The loss of one record as a module, so that `functional_call` can swap the model's parameters."""

    def __init__(self, model: nn.Module, loss: RecordLoss) -> None:
        super().__init__()
        self.model = model
        self.per_row = loss.per_row

    def forward(self, *rows: Tensor) -> Tensor:
        return self.per_row(self.model, *rows).mean()


def clipped_sum(model: nn.Module, loss: RecordLoss, rows: Rows, clip: float) -> list[Tensor]:
    """Return the sum over records of clipped gradients (see `base.ClippedSum`)."""
    mean = _RecordMean(model, loss)
    parameters = {name: p.detach() for name, p in mean.named_parameters() if p.requires_grad}

    def value(parameters: dict[str, Tensor], *record: Tensor) -> Tensor:
        result = functional_call(mean, parameters, record)
        assert isinstance(result, Tensor)
        return result

    dims = (None, *(0 for _ in rows))
    # The fused attention kernels have no batching rule: the plain one vectorises instead of looping.
    with sdpa_kernel(SDPBackend.MATH):
        try:
            gradients = vmap(grad(value), in_dims=dims, randomness="different")(parameters, *rows)
        except (RuntimeError, ValueError) as error:
            raise Unsupported(f"vmap: {str(error).splitlines()[0]}") from error
    return clip_and_sum(list(gradients.values()), clip)
