"""SIGTERM to a command: it stops cleanly, whenever the signal arrives."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparserve.termination import EXIT_CODE, Terminated, stopped_by_sigterm

MESSAGE = "Stopped by SIGTERM. Run the same command again to resume."
# Sends the signal when the named module is first imported.
SIGNAL_AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Finder())
from sparserve.__main__ import main
sys.argv = ["sparserve", *{arguments!r}]
main()
"""


def test_termination_stops_the_block_and_restores_the_handler(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []
    with pytest.raises(Terminated) as stopped, stopped_by_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the signal was lost")
        finally:
            cleaned.append(True)
    assert (stopped.value.code, cleaned) == (EXIT_CODE, [True])
    assert MESSAGE in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_termination_leaves_the_default_to_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_sigterm():
        assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr("os.getpid", lambda: 1)
    with stopped_by_sigterm():
        assert signal.getsignal(signal.SIGTERM) != before, "PID 1 loses a signal that it does not handle"


@pytest.mark.parametrize("module", ["typer", "torch"])
def test_compress_is_stopped_while_it_starts(
    compress_tiny: Callable[..., list[str]], tmp_path: Path, module: str
) -> None:
    code = SIGNAL_AT_IMPORT.format(module=module, arguments=compress_tiny(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == EXIT_CODE == 143, done.stderr
    assert done.stderr.split("\n") == ["", MESSAGE, ""]
