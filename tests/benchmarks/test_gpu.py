"""The GPU's benchmark does the same work on a CPU."""

import pytest
from click.testing import CliRunner

from benchmarks import gpu


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_line_per_network_and_precision(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    small = ["--network", "smoke", "--batch", "4", "--multiplicity", "2", "--rounds", "1", "--images", "4"]
    told = CliRunner().invoke(gpu.main, ["--device", device, *small, "--sampler-steps", "2"])
    if device == "cuda":
        assert told.exit_code == 1
        assert "no GPU that torch can use" in told.output
        return
    assert told.exit_code == 0, told.output
    rows = [line.strip("| ").split(" | ") for line in told.output.splitlines() if line.startswith("| smoke")]
    assert [row[1] for row in rows] == ["fp32", "bf16"]
    for row in rows:
        cells = dict(zip(gpu.COLUMNS, row, strict=True))
        assert all(float(cells[key]) > 0 for key in gpu.COLUMNS[4:8] + gpu.COLUMNS[10:])
