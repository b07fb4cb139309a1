"""Disagreements in a PostgreSQL of the tests' own, where its server is installed (Debian's package postgresql)."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sparserve.service.experiments.disagreements import Disagreement, Disagreements
from sparserve.service.observability.metrics import Metrics

pytestmark = pytest.mark.thorough

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BINARIES = shutil.which("pg_ctl", path=os.pathsep.join([os.environ["PATH"], *map(str, INSTALLED)]))
OPTIONS = "-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"


@pytest.fixture(scope="module")
def control() -> Iterator[Callable[..., str]]:
    """Start and stop the server; returns the URL of its database."""
    if BINARIES is None:
        pytest.skip("no PostgreSQL server is installed")
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)

        def run(*words: str) -> str:
            program = str(Path(BINARIES).resolve().with_name(words[0]))
            subprocess.run([program, "-D", f"{folder}/data", *words[1:]], check=True, user=user, cwd=folder)
            return f"postgresql://postgres@/postgres?host={folder}"

        run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "--no-instructions")
        run("pg_ctl", "start", "-w", "-l", f"{folder}/log", "-o", OPTIONS.format(folder=folder))
        try:
            yield run
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate")


def row(position: int, **changes: object) -> Disagreement:
    fields = {
        "at": datetime.now(UTC), "task": "t", "request_id": None, "position": position, "reference": "dense",
        "reference_version": "1" * 16, "candidate": "sparse90", "candidate_version": "2" * 16,
        "reference_label": "good", "candidate_label": "bad", "difference": 0.5,
    }  # fmt: skip
    return Disagreement(**{**fields, **changes})


def test_rows_are_kept_within_their_number_and_age(control: Callable[..., str]) -> None:
    url = control("pg_ctl", "status")
    before = datetime.now(UTC) - timedelta(days=2)
    database = Disagreements(url, capacity=3, days=1, metrics=Metrics())
    database.add(row(0, at=before))
    for position in range(1, 6):
        database.add(row(position, text=f"a\0b {position}"))
    database.close()
    database = Disagreements(url, capacity=3, days=1, metrics=Metrics())
    found = database.recent("t", 10)
    database.close()
    assert [(one.position, one.text) for one in found] == [(5, "a\ufffdb 5"), (4, "a\ufffdb 4"), (3, "a\ufffdb 3")]
    assert all(one.at.utcoffset() == timedelta(0) and one.at > before for one in found)


def test_a_server_that_is_gone_loses_rows_and_one_that_is_back_gets_them(control: Callable[..., str]) -> None:
    metrics = Metrics()
    url = control("pg_ctl", "status")
    database = Disagreements(url, capacity=100, days=1, metrics=metrics)
    database.write_now([row(10)])
    control("pg_ctl", "stop", "-w", "-m", "immediate")
    database.write_now([row(11)])
    folder = url.partition("host=")[2]
    control("pg_ctl", "start", "-w", "-l", f"{folder}/log", "-o", OPTIONS.format(folder=folder))
    database.write_now([row(12)])
    assert [one.position for one in database.recent("t", 2)] == [12, 10]
    assert metrics.registry.get_sample_value("sparserve_disagreements_lost_total") == 1
    database.close()
