"""The wall clock may jump: waiting, expiry and limits use a monotonic clock."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import sparserve.service
from tests.support.service.fixtures import Serve
from tests.support.tiny_bundles import TASK

URL = f"/v1/models/{TASK}/classify"
YEARS = 10 * 365 * 86_400
# Files that may read the time of day, and why.
TIMESTAMPS = {
    "experiments/disagreements.py": "rows of a database outlive the process, so their age is in calendar time",
    "api/dialects/vllm_classify.py": "vLLM's answers say when they were made",
    "experiments/ledger.py": "when an experiment that all workers share began",
    "observability/request_log.py": "the time of a log line",
    "experiments/traffic.py": "when an experiment began and a disagreement was found",
    "security/api_keys.py": "a key expires on a day",
    "security/key_file.py": "when a key was made, and its last day",
    "observability/tracing.py": "a span's place in time",
}


def calls_of_the_time_of_day(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
            if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"):
                yield name


def test_clocks_wall_clock_is_for_timestamps_only() -> None:
    folder = Path(sparserve.service.__path__[0])
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.py") if any(calls_of_the_time_of_day(path))}
    assert found == set(TIMESTAMPS)


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["ahead", "back"])
def test_clocks_jump_changes_no_answer_and_no_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    client: TestClient = serve(anonymous_rate=3, request_timeout_seconds=20, watch_seconds=0.01)
    now, jumped = time.time, 0

    def shifted() -> float:
        return now() + jumped

    monkeypatch.setattr(time, "time", shifted)

    def ask() -> int:
        status: int = client.post(URL, json={"inputs": "good"}).status_code
        return status

    assert ask() == 200
    jumped = jump
    timings = client.post(URL, json={"inputs": "good"}).json()["timings"]
    assert all(0 <= seconds < 20 for seconds in timings.values())
    assert [ask(), ask()] == [200, 429]  # ten years fill no bucket, and empty none
    assert client.get("/readyz").status_code == 200
