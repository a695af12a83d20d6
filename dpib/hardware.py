"""What this machine has left."""

from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, or of this machine; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
