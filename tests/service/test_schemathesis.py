"""schemathesis against the running service: by its own OpenAPI document, and by the Open Inference Protocol's calls.

Slow, so only `make test-thorough` runs it.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tiny_bundles import publish

from models.store import Store
from service.app import create_app
from service.keys_command import create
from service.settings import Settings

pytestmark = pytest.mark.thorough
DATA = Path(__file__).parent / "data"
Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service of two tasks; returns where it listens."""
    store = Store(tmp_path / "store")
    publish(store, variant="dense")
    publish(store, variant="sparse90")
    publish(store, task="other")
    ends: list[Callable[[], None]] = []

    def make(**settings: Any) -> str:
        disagreements = f"sqlite:///{tmp_path / 'disagreements.db'}"
        kept = {"store": store.root, "threads": 1, "watch_seconds": 0, "disagreements_url": disagreements}
        app = create_app(Settings(**kept, **settings))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        thread = threading.Thread(target=server.run)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join()

        ends.append(end)
        while not server.started or app.state.service.reason_not_ready():
            thread.join(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield make
    for end in ends:
        end()


def check(cwd: Path, *arguments: str) -> None:
    """Fail with what the tool finds, or where it has tried nothing."""
    tool = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(DATA / "schemathesis.toml"), "run"]
    done = subprocess.run([*tool, *arguments, "--no-color"], cwd=cwd, capture_output=True, text=True, check=False)
    found = done.stdout + done.stderr
    if done.returncode or "No issues found" not in found:
        pytest.fail(found, pytrace=False)


def test_the_service_does_what_its_document_says(start: Start, tmp_path: Path) -> None:
    check(tmp_path, f"{start(admin_without_key=True)}/openapi.json")


def test_nothing_that_asks_for_a_key_answers_without(start: Start, tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "ci", frozenset({"classify", "admin"}))
    document = f"{start(keys_file=tmp_path / 'keys')}/openapi.json"
    chosen = ["--checks=ignored_auth,not_a_server_error", "--phases=fuzzing", "--mode=positive", "--max-examples=1"]
    check(tmp_path, document, *chosen, f"--header=Authorization: Bearer {key}")


def test_the_protocol_s_calls_are_answered_as_it_says(start: Start, tmp_path: Path) -> None:
    check(tmp_path, str(DATA / "open_inference.yaml"), f"--url={start()}", "--phases=fuzzing")
