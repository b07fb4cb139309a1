"""The command `sparserve` as a whole: its commands, their help and its version."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import sparserve
from sparserve.cli import app

HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "fastapi",
    "numpy",
    "pydantic",
    "pydantic_settings",
    "sqlalchemy",
    "yaml",
)
COMMANDS = {
    "compress", "predict", "report", "recipes", "serve", "promote", "rollback",
    "bundles list", "bundles verify", "bundles default", "keys create", "keys list", "keys revoke",
}  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    """Return every command with the words that call it."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


def test_app_has_every_command_and_each_once() -> None:
    assert {name for name, _ in commands()} == COMMANDS


def test_app_describes_every_command_and_option() -> None:
    for name, command in commands():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)
            assert not parameter.help[0].islower() and parameter.help.endswith("."), (name, parameter.help)


def test_app_prints_its_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"sparserve {sparserve.__version__}\n")


WRONG = [[], ["bundles"], ["keys"], ["comress"], ["compress"], ["compress", "a", "b"], ["--verison"]]


@pytest.mark.parametrize("arguments", WRONG)
def test_app_refuses_a_wrong_command_line_with_status_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from sparserve.cli import app\n"
        f"for words in ['', 'bundles', 'keys', *{sorted(COMMANDS)!r}]:\n"
        "    result = CliRunner().invoke(app, [*words.split(), '--help']); assert result.exit_code == 0, words\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
