"""schemathesis against the running service: by its own OpenAPI document, and by the Open Inference Protocol's calls.

Slow, so only `make test-thorough` runs it.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.bundle.store import Store
from sparserve.service.security.key_file import create
from tests.support.service.fixtures import NewApp
from tests.support.service.listening import listening
from tests.support.tiny_bundles import publish

pytestmark = pytest.mark.thorough
DATA = Path(__file__).parent.parent / "data"
Start = Callable[..., str]


@pytest.fixture
def start(store: Store, tmp_path: Path, new_app: NewApp) -> Iterator[Start]:
    """Start a service of two tasks; returns where it listens."""
    publish(store, task="other")
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> str:
            disagreements = f"sqlite:///{tmp_path / 'disagreements.db'}"
            kept: dict[str, Any] = {
                "store": store.root,
                "watch_seconds": 0,
                "disagreements_url": disagreements,
            }
            return "http://" + stack.enter_context(listening(new_app(**kept, **settings), "critical"))

        yield make


def check(cwd: Path, *arguments: str) -> None:
    """Fail with what the tool finds, or where it has tried nothing."""
    tool = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(DATA / "schemathesis.toml"), "run"]
    done = subprocess.run([*tool, *arguments, "--no-color"], cwd=cwd, capture_output=True, text=True, check=False)
    found = done.stdout + done.stderr
    if done.returncode or "No issues found" not in found:
        pytest.fail(found, pytrace=False)


def test_schemathesis_service_conforms_to_openapi(start: Start, tmp_path: Path) -> None:
    check(tmp_path, f"{start(admin_without_key=True)}/openapi.json")


def test_schemathesis_key_is_required(start: Start, tmp_path: Path) -> None:
    key = create(tmp_path / "keys", "ci", frozenset({"classify", "admin"}))
    document = f"{start(keys_file=tmp_path / 'keys')}/openapi.json"
    chosen = ["--checks=ignored_auth,not_a_server_error", "--phases=fuzzing", "--mode=positive", "--max-examples=1"]
    check(tmp_path, document, *chosen, f"--header=Authorization: Bearer {key}")


def test_schemathesis_open_inference_conforms_to_its_specification(start: Start, tmp_path: Path) -> None:
    check(tmp_path, str(DATA / "open_inference.yaml"), f"--url={start()}", "--phases=fuzzing")
