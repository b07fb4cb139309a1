"""The database of disagreements: bounded, and never in an answer's way."""

import logging
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from sparserve.service.experiments import disagreements
from sparserve.service.experiments.disagreements import (
    BATCH_ROWS,
    QUEUE_CAPACITY,
    Disagreement,
    Disagreements,
    database_values,
)
from sparserve.service.observability.metrics import Metrics


def row(position: int = 0, **changes: object) -> Disagreement:
    fields = {
        "at": datetime.now(UTC), "task": "t", "request_id": "r", "position": position, "reference": "dense",
        "reference_version": "1" * 16, "candidate": "sparse90", "candidate_version": "2" * 16,
        "reference_label": "good", "candidate_label": "bad", "difference": 0.5,
    }  # fmt: skip
    return Disagreement(**{**fields, **changes})


def lost(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("sparserve_disagreements_lost_total")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/rows.db"


def kept(url: str, task: str = "t") -> list[int]:
    database = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    found = [one.position for one in database.recent(task, 1000)]
    database.close()
    return found


def positions(url: str) -> list[int]:
    """Of all rows that the database holds, shown or not."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [int(each) for each in connection.execute(text("SELECT position FROM disagreements")).scalars()]
    engine.dispose()
    return found


def test_disagreements_close_writes_rows(url: str) -> None:
    database = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    for position in range(250):
        database.add(row(position, text="some text" if position else None))
    database.add(row(7, task="other"))
    database.close()
    assert kept(url) == list(range(249, -1, -1))
    assert kept(url, "other") == [7]
    (newest,) = Disagreements(url, capacity=1000, days=1, metrics=Metrics()).recent("t", 1)
    assert (newest.text, newest.reference_label, newest.difference) == ("some text", "good", 0.5)


def test_disagreements_delete_oldest_rows(url: str) -> None:
    for begin in (0, 10):
        database = Disagreements(url, capacity=5, days=1, metrics=Metrics())
        for position in range(begin, begin + 10):
            database.add(row(position))
        database.close()
    assert kept(url) == [19, 18, 17, 16, 15]
    database = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    database.add(row(1, at=datetime.now(UTC) - timedelta(days=2)))
    database.close()
    assert 1 not in positions(url)


def test_disagreements_hide_expired_rows(url: str) -> None:
    writer = Disagreements(url, capacity=1000, days=3, metrics=Metrics())
    writer.write_now([row(1, at=datetime.now(UTC) - timedelta(days=2)), row(2)])
    reader = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    assert [one.position for one in reader.recent("t", 10)] == [2]
    reader.close()
    writer.close()


def test_disagreements_purge_at_start(url: str) -> None:
    before = Disagreements(url, capacity=1000, days=3, metrics=Metrics())
    before.write_now([row(1, at=datetime.now(UTC) - timedelta(days=2), text="a text"), row(2)])
    before.close()
    Disagreements(url, capacity=1000, days=1, metrics=Metrics()).close()
    assert positions(url) == [2]


def test_disagreements_purge_periodically(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreements, "PURGE_SECONDS", 0.01)
    database = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    database.write_now([row(1), row(2)])
    database.start()
    for left in ([2], []):  # the first may go at the start of the thread, the second only later
        with create_engine(url).begin() as connection:
            connection.execute(
                text(f"UPDATE disagreements SET at = '2001-01-01 00:00:00.000000' WHERE id = {2 - len(left)}")
            )
        until = time.monotonic() + 10
        while positions(url) != left and time.monotonic() < until:
            pass
        assert positions(url) == left
    database.close()


def test_disagreements_times_are_in_utc(url: str) -> None:
    database = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    at = datetime.now(timezone(timedelta(hours=5)))
    database.write_now([row(at=at)])
    (found,) = database.recent("t", 1)
    assert found.at == at and found.at.utcoffset() == timedelta(0)
    database.close()


def test_database_values_replace_nul() -> None:
    kept = database_values(row(text="a\0b", text_pair="\0", reference_label="l\0", task="t"))
    assert (kept["text"], kept["text_pair"], kept["reference_label"]) == ("a\ufffdb", "\ufffd", "l\ufffd")
    assert (kept["task"], kept["difference"]) == ("t", 0.5)


def test_disagreements_write_storable_values(url: str) -> None:
    database = Disagreements(url, capacity=1000, days=1, metrics=Metrics())
    database.write_now([row(text="a\0b")])
    assert [one.text for one in database.recent("t", 1)] == ["a\ufffdb"]
    database.close()


def test_disagreements_create_no_database_without_rows(url: str, tmp_path: Path) -> None:
    Disagreements(url, capacity=5, days=1, metrics=Metrics()).close()
    assert not list(tmp_path.iterdir())


def test_disagreements_unwritable_database_logs_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    database = Disagreements(f"sqlite:///{tmp_path}/missing/rows.db", capacity=5, days=1, metrics=metrics)
    for position in range(3):
        database.add(row(position, text="a secret text"))
    database.close()
    assert lost(metrics) == 3
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    assert "answers are not affected" in caplog.text
    assert "secret" not in caplog.text
    assert database.recent("t", 5) == []


def test_disagreements_database_recovers(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(disagreements, "FAULT_INTERVAL_SECONDS", 0.0)
    metrics = Metrics()
    database = Disagreements(url, capacity=50, days=1, metrics=metrics)
    database.write_now([row(1)])
    with create_engine(url).begin() as connection:
        connection.execute(text("ALTER TABLE disagreements RENAME TO hidden"))
    database.write_now([row(2)])
    with create_engine(url).begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO disagreements"))
    database.write_now([row(3)])
    assert kept(url) == [3, 1]
    assert lost(metrics) == 1
    assert "works again" in caplog.text
    database.close()


def test_disagreements_intermittent_fault_logs_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    database = Disagreements(url, capacity=50, days=1, metrics=Metrics())
    for position in range(6):
        database.write_now([row(position, **({"task": None} if position % 2 else {}))])
    assert kept(url) == [4, 2, 0]
    assert len(caplog.records) == 1
    database.close()


def test_disagreements_full_queue_drops_and_counts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    database = Disagreements(url, capacity=10_000, days=1, metrics=metrics)
    monkeypatch.setattr(database, "_write", lambda: None)  # a writer that has stopped
    for position in range(QUEUE_CAPACITY + 5):
        database.add(row(position))
    assert lost(metrics) == 5


def test_disagreements_full_disk_keeps_old_rows(url: str) -> None:
    metrics = Metrics()
    database = Disagreements(url, capacity=10_000, days=1, metrics=metrics)
    database.write_now([row(1)])

    @event.listens_for(database._database(), "connect")
    def fill(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size: not a page more

    database._database().dispose()
    for _ in range(50):
        database.write_now([row(2, text="a long text " * 1000)])
    assert lost(metrics) == 50
    assert kept(url) == [1]
    database.close()


def test_disagreements_missing_driver(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    database = Disagreements("mysql+missing_driver://x/y", capacity=5, days=1, metrics=metrics)
    database.add(row(1))
    database.close()
    other = Disagreements("oracle+oracledb://x/y", capacity=5, days=1, metrics=metrics)
    other.add(row(1))
    other.close()
    assert other.recent("t", 5) == []
    assert lost(metrics) == 2
    assert "uncaught exception" not in caplog.text


def test_disagreements_hanging_database_close(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disagreements, "CLOSE_SECONDS", 0.1)
    database = Disagreements(f"{url}?timeout=60", capacity=10_000, days=1, metrics=Metrics())
    database.write_now([row(0)])
    other = create_engine(url)
    with other.connect() as lock:
        lock.exec_driver_sql("BEGIN EXCLUSIVE")
        for position in range(QUEUE_CAPACITY + BATCH_ROWS):
            database.add(row(position))
        began = time.monotonic()
        database.close()
        assert time.monotonic() - began < 30
        assert "does not answer" in caplog.text
    other.dispose()
    assert database._thread
    database._queue.put(None)  # the lock is released and the writer continues: a process would have ended before
    database._thread.join(30)
