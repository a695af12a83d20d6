"""Exponential moving average of a network, buffers included."""

import copy
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """Averages parameters and floating-point buffers with decay min(decay, (1 + t)/(10 + t)) after t updates.

    Averaging the buffers matters: averaged weights with the live network's batch-norm statistics belong
    to no network, and lose several points of accuracy while the learning rate is high.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present state."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = self.network.state_dict(), network.state_dict()
        floating = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floating], [theirs[n] for n in floating], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged network's state and the number of updates behind it."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.updates = int(state["updates"])
