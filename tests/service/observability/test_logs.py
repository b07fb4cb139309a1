"""Log lines: the fields of a request, JSON and text, the queue, and no texts of clients."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pythonjsonlogger.orjson import OrjsonFormatter

from sparserve.models.bundle.store import Store
from sparserve.service.core import ServingCore
from sparserve.service.observability.logs import (
    ATOMIC_BYTES,
    FIELDS,
    QUEUE_CAPACITY,
    BackgroundHandler,
    JsonFormatter,
    TextFormatter,
    traceback_of,
    write_completely,
)
from tests.support.tiny_bundles import TASK

ROOT = Path(__file__).parents[3]
URL = f"/v1/models/{TASK}/classify"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "a secret text"


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines that requests have left, as they would be written."""
    found = [JsonFormatter().format(record) for record in caplog.records if record.name == "sparserve.requests"]
    assert not any("\n" in line for line in found)
    return [json.loads(line) for line in found]


@pytest.fixture
def line_of(serve: Callable[..., TestClient], caplog: pytest.LogCaptureFixture) -> Callable[..., dict[str, Any]]:
    """Send a request and return its line."""

    def ask(url: str = URL, settings: dict[str, object] | None = None, **request: Any) -> dict[str, Any]:
        client = serve(**(settings or {}))
        caplog.clear()
        caplog.set_level(logging.INFO)
        client.post(url, **request)
        (line,) = lines_of(caplog)
        return line

    return ask


def test_request_log_fields(line_of: Any, store: Store) -> None:
    headers = {"X-Request-Id": "mine", "traceparent": PARENT}
    line = line_of(json={"inputs": ["good", "bad film"]}, headers=headers)
    assert line["time"].endswith("+00:00")
    assert line["milliseconds"] >= line["batch_wait_milliseconds"] >= 0
    assert line["bytes_in"] == len('{"inputs":["good","bad film"]}')
    assert line["bytes_out"] > 100
    known = {name: line[name] for name in line if name not in ("time", "milliseconds", "batch_wait_milliseconds")}
    del known["bytes_in"], known["bytes_out"]
    assert known == {
        "level": "info",
        "logger": "sparserve.requests",
        "request_id": "mine",
        "trace_id": TRACE,
        "method": "POST",
        "route": "/v1/models/{task}/classify",
        "status": 200,
        "task": TASK,
        "variant": "dense",
        "version": store.current(TASK, "dense"),
        "inputs": 2,
        "tokens": 7,
        "client": "testclient",
    }


def test_request_log_names_every_compared_variant(line_of: Any) -> None:
    line = line_of(f"/v1/models/{TASK}/compare", json={"inputs": "good"})
    assert (line["task"], line["variant"]) == (TASK, "dense,sparse90")
    assert (line["inputs"], line["tokens"]) == (2, 6)


def test_request_log_omits_stages_not_reached(line_of: Any) -> None:
    line = line_of(json={"inputs": 5}, headers={"traceparent": "nonsense"})
    assert line["status"] == 422
    assert not {"trace_id", "task", "variant", "inputs", "tokens", "batch_wait_milliseconds"} & line.keys()


def test_request_log_without_client_addresses(line_of: Any) -> None:
    assert "client" not in line_of(json={"inputs": "good"}, settings={"log_client_address": False})


@pytest.mark.parametrize(
    "sent",
    [
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"{PARENT}-more",
        PARENT.upper(),
        PARENT[:-1],
    ],
)
def test_request_log_ignores_invalid_traceparent(
    module_client: TestClient, caplog: pytest.LogCaptureFixture, sent: str
) -> None:
    caplog.set_level(logging.INFO)
    module_client.post(URL, json={"inputs": "good"}, headers={"traceparent": sent})
    assert "trace_id" not in lines_of(caplog)[0]


def test_request_log_accepts_later_traceparent_versions(
    module_client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    module_client.post(URL, json={"inputs": "good"}, headers={"traceparent": f"01{PARENT[2:]}-more"})
    assert lines_of(caplog)[0]["trace_id"] == TRACE


def test_request_log_hides_probes(module_client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    module_client.get("/readyz")
    assert not lines_of(caplog)


def test_request_log_omits_exception_messages(
    client: TestClient,
    service_of: Callable[[TestClient], ServingCore],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(service_of(client).catalog, "engine", fail)
    caplog.set_level(logging.INFO)
    assert client.post(URL, json={"inputs": SECRET}, headers={"X-Request-Id": "mine"}).status_code == 500
    failure, request = lines_of(caplog)
    assert (failure["request_id"], failure["exception"], failure["level"]) == ("mine", "RuntimeError", "error")
    assert "in fail" in failure["traceback"]
    assert request["status"] == 500
    assert SECRET not in json.dumps([failure, request])


def record(message: str, *arguments: object, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    found = logging.LogRecord("some.library", logging.WARNING, "file.py", 1, message, arguments, exc_info)
    vars(found).update(extra)
    return found


def failed() -> Exception:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(SECRET) from error
    except ValueError as error:
        return error


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_formatters_omit_exception_messages(formatter: logging.Formatter) -> None:
    assert "3 of 4\\nmore" in formatter.format(record("%d of %d\nmore", 3, 4)).replace("\n", "\\n")
    # As asyncio logs a task that nobody waited for.
    line = formatter.format(record(f"never retrieved\nfuture: ValueError({SECRET})", error=failed()))
    assert "never retrieved" in line and "ValueError" in line and "KeyError" in line and "in failed" in line
    assert SECRET not in line


def test_json_formatter_encodes_any_value() -> None:
    line = json.loads(JsonFormatter().format(record("", fields={"path": Path("x"), "odd": "\ud800"})))
    assert (line["path"], line["odd"]) == ("x", "?")
    assert FIELDS == "fields"
    plain = record("", fields={"path": "/x", "status": 200, "milliseconds": 1.5, "é": None})
    assert JsonFormatter().format(plain) == OrjsonFormatter.format(JsonFormatter(), plain)


def test_traceback_of_circular_causes() -> None:
    error = failed()
    assert error.__cause__
    error.__cause__.__cause__ = error
    assert traceback_of(error).count("\nValueError") == 1


SCRIPT = """
import logging, sys, threading, warnings
from sparserve.service.observability.logs import configure_logging
configure_logging("info", {log_format})
logging.getLogger("uvicorn.error").info("started")
warnings.warn("take care")
def fail(): raise RuntimeError("a secret text")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def written(log_format: str | None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-W", "always", "-c", SCRIPT.format(log_format=repr(log_format))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stdout
    assert SECRET not in done.stderr
    return done.stderr.splitlines()


def test_configure_logging_defaults_to_json() -> None:
    started, warned, in_thread, in_main = map(json.loads, written(None))
    assert (started["logger"], started["message"]) == ("uvicorn.error", "started")
    assert "UserWarning: take care" in warned["message"]
    assert in_thread["exception"] == in_main["exception"] == "RuntimeError"
    assert "in fail" in in_main["traceback"] and in_main["level"] == "critical"


def test_configure_logging_text() -> None:
    lines = written("text")
    assert lines[0].endswith("INFO uvicorn.error started")
    assert lines[-1] == "RuntimeError"


FLOOD = """
import logging, sys
from sparserve.service.observability.logs import configure_logging
configure_logging("info", "json")
for number in range(int(sys.argv[1])):
    logging.info("line %d", number)
print("done", flush=True)
"""


class Gated:
    """Keeps lines, once its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.writing = threading.Event()
        self.written: list[bytes] = []

    def __call__(self, lines: bytes) -> None:
        self.writing.set()
        self.gate.wait(timeout=10)
        self.written.append(lines)

    def lines(self) -> list[str]:
        return b"".join(self.written).decode().splitlines()


@pytest.fixture
def output() -> Iterator[Gated]:
    write = Gated()
    yield write
    write.gate.set()


def test_background_handler_keeps_order_and_flushes_at_close(output: Gated) -> None:
    output.gate.set()
    background = BackgroundHandler(output)
    for number in range(1000):
        background.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,)}))
    background.close()
    assert output.lines() == [f"line {number}" for number in range(1000)]


def test_background_handler_writes_many_records_at_once(output: Gated) -> None:
    background = BackgroundHandler(output)
    background.handle(logging.makeLogRecord({"msg": "first"}))
    assert output.writing.wait(timeout=10)
    for number in range(100):
        background.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,)}))
    output.gate.set()
    background.close()
    assert [len(lines.splitlines()) for lines in output.written] == [1, 100]


def test_background_handler_survives_a_record_that_cannot_be_formatted(
    output: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    output.gate.set()
    background = BackgroundHandler(output)
    background.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    background.handle(logging.makeLogRecord({"msg": "next"}))
    background.close()
    assert output.lines() == ["next"]


def test_background_handler_drops_and_counts_when_full(output: Gated) -> None:
    background = BackgroundHandler(output)
    background.handle(logging.makeLogRecord({"msg": "first"}))
    assert output.writing.wait(timeout=10)
    for _ in range(QUEUE_CAPACITY + 7):
        background.handle(logging.makeLogRecord({"msg": "next"}))
    output.gate.set()
    background.close()
    assert output.lines()[-1] == "7 log lines were dropped: standard error was not read in time"
    assert len(output.lines()) == 1 + QUEUE_CAPACITY + 1


def test_write_completely_writes_long_lines() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        line = b"x" * 500_000
        thread = threading.Thread(target=write_completely, args=(writing, line))
        thread.start()
        assert pipe.read(len(line)) == line
        thread.join()
        os.close(writing)
        assert pipe.read() == b""


def test_write_completely_ignores_a_closed_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    write_completely(writing, b"lost")
    os.close(writing)


@pytest.mark.parametrize("lines", [10, 20_000])
def test_process_exits_with_unread_standard_error(lines: int) -> None:
    command = [sys.executable, "-c", FLOOD, str(lines)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() == "done\n"
        assert process.wait(timeout=30) == 0
        assert process.stderr.readline().endswith('"message":"line 0"}\n')


def test_lines_of_several_processes_do_not_mix() -> None:
    """Each write to a pipe is a few whole lines that the kernel keeps together; a longer line is written by itself."""
    lines = [b"%d %s\n" % (number, b"x" * 900) for number in range(20)] + [b"y" * 9000 + b"\n", b"z\n"]
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reading, writing:
        write_completely(writing.fileno(), b"".join(lines))
        writing.shutdown(socket.SHUT_WR)
        writes = list(iter(lambda: reading.recv(2**16), b""))
    assert b"".join(writes) == b"".join(lines)
    assert all(write.endswith(b"\n") and (len(write) <= ATOMIC_BYTES or b"y" in write) for write in writes)
