"""`sparserve serve`: an option for every setting of the service."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparserve.cli import app
from sparserve.cli.serve import PANELS, settings
from sparserve.models.bundle.store import Store
from sparserve.service.settings import Settings
from tests.support.tiny_bundles import publish


def serve(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["serve", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})


def test_serve_reads_the_settings_that_the_class_has() -> None:
    declared = {setting.name: (setting.default, setting.description) for setting in settings()}
    assert declared == {name: (field.default, field.description) for name, field in Settings.model_fields.items()}
    assert set(PANELS) <= set(declared)


def test_serve_help_has_every_setting_and_its_variable() -> None:
    result = serve("--help")
    assert result.exit_code == 0
    for setting in settings():
        assert re.search(rf"{setting.option}\s", result.stdout)
        assert f"[env var: {setting.variable}]" in result.stdout
    assert '["10.0.0.0/8"]' in result.stdout and "<debug|info|warning|error>" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port (SPARSERVE_PORT): Input should be less than"),
        (["--port=x"], "--port (SPARSERVE_PORT): Input should be a valid integer"),
        (["--log-level", "loud"], "--log-level (SPARSERVE_LOG_LEVEL)"),
        (["--metrics-need-key", "perhaps"], "--metrics-need-key (SPARSERVE_METRICS_NEED_KEY)"),
        (["--pins", "foo"], "--pins (SPARSERVE_PINS): invalid JSON"),
        (["--cors-origins", "https://a.example", "--cors-origins", "https://b/c"], "'https://b/c' is not an origin"),
        (["--cors-origins", '["https://b/c"]'], "'https://b/c' is not an origin"),
        (["--stroe", "x"], "No such option"),
        (["--metrics-need-key"], "requires an argument"),
        (["x"], "unexpected extra argument"),
    ],
)
def test_serve_refuses_a_wrong_setting_with_status_2(arguments: list[str], message: str) -> None:
    result = serve(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_serve_names_a_wrong_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERVE_PORT", "x")
    result = serve()
    assert result.exit_code == 2
    assert "--port (SPARSERVE_PORT): Input should be a valid integer" in result.stderr


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A service that the command has started, and its port; the command line goes before the environment."""
    store = Store(tmp_path / "store")
    publish(store)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sparserve", "serve", "--port", str(port)]
    environment = {**os.environ, "SPARSERVE_STORE": str(store.root), "SPARSERVE_PORT": "1", "SPARSERVE_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if b"running on" in line:
                break
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_ends_with_status_0(
    process: tuple[subprocess.Popen[bytes], int], number: signal.Signals
) -> None:
    running, port = process
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=30) as response:
        assert response.status == 200
    running.send_signal(number)
    assert running.wait(60) == 0
