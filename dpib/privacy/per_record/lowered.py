"""A loss whose passes through the network are made in bfloat16; what is clipped is float32 all the same."""

from dataclasses import dataclass

from torch import Tensor, nn

from dpib.draws import Draws
from dpib.precision import passes
from dpib.privacy.per_record.base import RecordLoss


@dataclass(frozen=True)
class Lowered:
    """`loss` in bfloat16."""

    loss: RecordLoss

    @property
    def multiplicity(self) -> int:
        """The number K of noise draws per record."""
        return self.loss.multiplicity

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return the loss's rows."""
        return self.loss.rows(x, y, draws)

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return the loss's rows, float32; the backward pass is made as the forward pass was."""
        with passes(True, rows[0].device):
            return self.loss.per_row(model, *rows).float()
