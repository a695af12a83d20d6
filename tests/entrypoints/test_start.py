"""Commands start at once: what takes seconds to import is imported by those that need it, when they do."""

import os
import pty
import subprocess
import sys

import pytest

from dpib.privacy.ledger import Account

HEAVY = ("torch", "mlflow", "dp_accounting", "scipy", "pandas", "optuna")
COMMANDS = (
    *("audit", "baseline", "evaluate", "generate", "main", "part", "prepare", "pretrain", "query"),
    *("report", "suite", "sweep", "sweep_worker", "train", "ui", "verify"),
)

# Runs an entry point in this interpreter and says which of the heavy modules it took.
SCRIPT = """
import importlib, sys
import click
name, heavy, words = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
module = importlib.import_module(f"entrypoints.{name}")
try:
    module.main(words, standalone_mode=False)
except click.ClickException as error:
    print(error.message, file=sys.stderr)
print(*[one for one in heavy if one in sys.modules])
"""


def taken(root, name, *words):
    """Return the heavy modules that a command imported, and what it said."""
    command = [sys.executable, "-c", SCRIPT, name, ",".join(HEAVY), *map(str, words)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split(), done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_that_takes_seconds(root, name):
    found, said = taken(root, name, "--help")
    assert found == []
    assert "Usage:" in said


def test_every_command_is_among_these(root):
    files = {path.stem for path in (root / "entrypoints").glob("*.py") if "main()" in path.read_text()}
    assert files == set(COMMANDS)


def test_verify_report_and_ui_do_without_torch(root, tmp_path, tracking_uri):
    ledger = tmp_path / "ledger.json"
    ledger.write_text(Account(dataset="d", relation="zero_out", epsilon=1.0, delta=1e-5, scopes={"train": 10}).text())
    found, said = taken(root, "verify", "--ledger", ledger)
    assert "the budget holds" in said
    assert not {"torch", "mlflow"} & set(found)
    for words in (("report", "--experiment", "dpib-none", "--out", tmp_path / "out"), ("ui",)):
        found, said = taken(root, *words)
        assert "mlflow" in found, said
        assert "torch" not in found, words


def test_who_sits_at_a_terminal_is_told_at_once(root, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "entrypoints.verify", "--ledger", str(tmp_path / "none.json")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=theirs):
        os.close(theirs)
        first = os.read(ours, 1000).decode()
    os.close(ours)
    assert first.startswith("verify: starting")
