"""Give a command in this process, as a shell would give it."""

import importlib

from click.testing import CliRunner


def call(name, *arguments):
    module = importlib.import_module(f"entrypoints.{name}")
    return CliRunner().invoke(module.main, [str(a) for a in arguments])


def flags(overrides):
    return [f"--{key}={value}" for key, value in overrides.items()]


def run_id(result):
    """Return the run that a stage's command ended with."""
    assert result.exit_code == 0, result.output
    return result.output.rpartition(" run ")[2].split()[0]


def last_line(result):
    """Return the one line that a refused command ends with."""
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]
