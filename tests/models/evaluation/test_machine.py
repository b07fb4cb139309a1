"""The description of the measuring machine."""

import getpass
import platform

import pytest

from sparserve.models.cpus import RELEVANT_ISA
from sparserve.models.evaluation.machine import describe_machine


def test_describe_machine_names_no_owner() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**20
    assert set(machine.isa) <= set(RELEVANT_ISA)
    assert machine.python == platform.python_version()
    text = machine.model_dump_json()
    host = platform.node()
    assert len(host) < 4 or host not in text
    assert f"/{getpass.getuser()}" not in text


def test_describe_machine_shortens_the_kernel_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-1023-somebodys-cloud")
    assert describe_machine.__wrapped__().system == f"{platform.system()} 6.8 {platform.machine()}"
