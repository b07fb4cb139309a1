"""Commands whose output cannot be written: exit code 4 and one line, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.progress import JsonReporter
from tests.sparserve.cli.test_app import COMMANDS

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def run(*arguments: str, code: str | None = None, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *(["-c", code] if code else ["-m", "sparserve"]), *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


def is_one_line(result: "subprocess.CompletedProcess[str]", reason: str) -> bool:
    expected = f"sparserve: standard output cannot be written ({reason}): send it to another file or reader\n"
    return (result.returncode, result.stderr) == (4, expected)


@needs_full
def test_command_reports_a_full_disk() -> None:
    with FULL.open("w") as output:
        assert is_one_line(run("--version", stdout=output), "No space left on device")


def test_command_reports_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert is_one_line(run("--version", stdout=writing), "Broken pipe")
    os.close(writing)


def test_command_reports_a_closed_descriptor() -> None:
    assert is_one_line(run("--version", preexec_fn=lambda: os.close(1)), "Bad file descriptor")


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *sorted(COMMANDS)])
def test_every_command_reports_a_full_disk(command: str) -> None:
    with FULL.open("w") as output:
        assert is_one_line(run(*command.split(), "--help", stdout=output), "No space left on device")


@needs_full
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("print('a')", 4),
        ("print('a', flush=True); raise AssertionError", 4),
        ("raise SystemExit(3)", 3),
        ("pass", 0),
        ("\n    try: print('a', flush=True)\n    except Exception: pass\n    print('b'); raise SystemExit(0)", 4),
    ],
)
def test_checked_output_decides_the_exit_code(body: str, status: int) -> None:
    code = f"from sparserve.cli.standard_output import checked_output\nwith checked_output():\n    {body.lstrip()}"
    with FULL.open("w") as output:
        assert run(code=code, stdout=output).returncode == status


@needs_full
def test_checked_output_ignores_faults_of_standard_error() -> None:
    code = "import sys\nfrom sparserve.cli.standard_output import checked_output\nwith checked_output():\n"
    with FULL.open("w") as errors:
        command = [sys.executable, "-c", f"{code}    sys.stderr.write('a'); sys.exit(3)"]
        assert subprocess.run(command, stderr=errors, check=False).returncode == 3


def test_checked_output_escapes_what_an_encoding_lacks() -> None:
    code = "from sparserve.cli.standard_output import checked_output\nwith checked_output(): print('\\xe9 \\ud800')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run(code=code, stdout=subprocess.PIPE, env=environment)
    assert (result.returncode, result.stdout) == (0, "\\xe9 \\ud800\n")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["table", "json", "markdown", "html"])
def test_report_is_written_whatever_the_encoding(tiny_store: Path, format: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    arguments = ["report", "tiny", "--store", str(tiny_store), "--format", format]
    result = run(*arguments, stdout=subprocess.PIPE, env=environment, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "sparse60" in result.stdout


def test_json_reporter_writes_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    JsonReporter().say("é")
    assert capsys.readouterr().out == '{"event": "message", "text": "\\u00e9"}\n'
