"""Log lines whose reader has stopped reading."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparserve.service.observability.log_output import WAITING_LINES, Background, Descriptor

ROOT = Path(__file__).parents[3]
FLOOD = """
import logging, sys
from sparserve.service.logs import configure_logging
configure_logging("info", "json")
for number in range(int(sys.argv[1])):
    logging.info("line %d", number)
print("done", flush=True)
"""


class Gated(logging.Handler):
    """Keeps messages, once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.gate.wait(timeout=10)
        self.messages.append(record.getMessage())


@pytest.fixture
def output() -> Iterator[Gated]:
    handler = Gated()
    yield handler
    handler.gate.set()


def test_lines_are_written_in_order_and_none_is_lost_at_the_end(output: Gated) -> None:
    output.gate.set()
    background = Background(output)
    for number in range(1000):
        background.handle(logging.makeLogRecord({"msg": "line %d", "args": (number,)}))
    background.close()
    assert output.messages == [f"line {number}" for number in range(1000)]


def test_where_nobody_reads_lines_are_dropped_and_counted(output: Gated) -> None:
    background = Background(output)
    # One is being written, the others wait.
    sent = WAITING_LINES + 1 + 7
    background.handle(logging.makeLogRecord({"msg": "first"}))
    while not background._lines.empty():
        pass
    for _ in range(sent - 1):
        background.handle(logging.makeLogRecord({"msg": "next"}))
    output.gate.set()
    while len(output.messages) < WAITING_LINES + 2:
        pass
    background.close()
    assert output.messages[-1] == "7 lines were lost: nobody read them"
    assert len(output.messages) == WAITING_LINES + 2


def test_a_line_is_written_whole_whatever_the_pipe_takes_at_once() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        line = "x\ud800" * 100_000
        thread = threading.Thread(target=Descriptor(writing).handle, args=(logging.makeLogRecord({"msg": line}),))
        thread.start()
        wanted = (line + "\n").encode(errors="backslashreplace")
        assert pipe.read(len(wanted)) == wanted
        thread.join()
        os.close(writing)
        assert pipe.read() == b""


@pytest.mark.parametrize("lines", [10, 20_000])
def test_a_process_ends_although_nobody_reads_its_standard_error(lines: int) -> None:
    command = [sys.executable, "-c", FLOOD, str(lines)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() == "done\n"
        assert process.wait(timeout=30) == 0
        assert process.stderr.readline().endswith('"message":"line 0"}\n')
