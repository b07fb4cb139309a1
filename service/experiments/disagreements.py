"""Inputs on which two variants disagreed, in a small database: SQLite by default, any other by its SQLAlchemy URL.

A separate thread writes the rows. It also deletes rows that are too old, soon after the start and every hour. If the
database is slow, full or gone, rows are lost and counted, but answers are not affected.
"""

import contextlib
import logging
import queue
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    delete,
    desc,
    func,
    insert,
    make_url,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from sparserve.service.observability.metrics import Metrics

logger = logging.getLogger(__name__)

QUEUE_CAPACITY: Final = 1000  # rows
BATCH_ROWS: Final = 100
CLOSE_SECONDS: Final = 5.0
# Expired rows may stay in the database for this long. They are not shown.
PURGE_SECONDS: Final = 3600.0
# An almost full disk accepts some rows and not others: log this as one fault.
FAULT_INTERVAL_SECONDS: Final = 60.0


class _UtcTime(TypeDecorator[datetime]):
    """A time in UTC, even if the database stores no offsets (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_TABLES: Final = MetaData()
_ROWS: Final = Table(
    "disagreements",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("at", _UtcTime, nullable=False, index=True),
    Column("task", String(64), nullable=False, index=True),
    Column("request_id", String(128)),
    Column("position", Integer, nullable=False),
    Column("reference", String(64), nullable=False),
    Column("reference_version", String(16), nullable=False),
    Column("candidate", String(64), nullable=False),
    Column("candidate_version", String(16), nullable=False),
    Column("reference_label", Text, nullable=False),
    Column("candidate_label", Text, nullable=False),
    Column("difference", Float, nullable=False),
    Column("text", Text),
    Column("text_pair", Text),
)


@dataclass(frozen=True)
class Disagreement:
    """One input with different labels from two variants; `difference` is the largest score difference."""

    at: datetime
    task: str
    request_id: str | None
    position: int
    reference: str
    reference_version: str
    candidate: str
    candidate_version: str
    reference_label: str
    candidate_label: str
    difference: float
    text: str | None = None
    text_pair: str | None = None


class Disagreements:
    """The database and the thread that writes to it. Neither is created before the first row.

    Args:
        url: SQLAlchemy URL of the database.
        capacity: maximum number of rows; the oldest are deleted first.
        days: days that a row is kept.
        metrics: counts lost rows.
    """

    def __init__(self, url: str, *, capacity: int, days: float, metrics: Metrics) -> None:
        self._url = url
        self._capacity = capacity
        self._keep = timedelta(days=days)
        self._metrics = metrics
        self._queue: queue.Queue[Disagreement | None] = queue.Queue(QUEUE_CAPACITY)
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        self._broken = False
        self._fault_until = 0.0
        if _may_have_rows(url):
            self.start()

    def add(self, row: Disagreement) -> None:
        """Queue a row for writing. Never waits; drops the row if the queue is full."""
        if self._thread is None:
            self.start()
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._metrics.experiments.disagreements_lost.inc()

    def recent(self, task: str, limit: int) -> list[Disagreement]:
        """Return the newest rows of a task; none if the database cannot be read. Blocks: call it off the event loop."""
        kept = (_ROWS.c.task == task) & (_ROWS.c.at >= self._oldest())
        query = select(_ROWS).where(kept).order_by(desc(_ROWS.c.id)).limit(limit)
        try:
            with self._database().connect() as connection:
                rows = [dict(row) for row in connection.execute(query).mappings()]
        except (SQLAlchemyError, ImportError) as error:
            self._log_fault(error)
            return []
        return [Disagreement(**{name: value for name, value in row.items() if name != "id"}) for row in rows]

    def close(self) -> None:
        """Write the queued rows and close the database; rows not written after `CLOSE_SECONDS` are lost."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # the writer hangs: do not wait long
                self._queue.put(None, timeout=CLOSE_SECONDS / 2)
            self._thread.join(CLOSE_SECONDS / 2)
            if self._thread.is_alive():
                logger.error("the database of disagreements does not answer: queued rows are lost")
                return
        if self._engine is not None:
            self._engine.dispose()

    def start(self) -> None:
        """Start the thread; `add` does so if necessary."""
        self._thread = threading.Thread(target=self._write, name="disagreements", daemon=True)
        self._thread.start()

    def _oldest(self) -> datetime:
        return datetime.now(UTC) - self._keep

    def _database(self) -> Engine:
        with self._opening:  # a reader and the writer may open it at the same time
            if self._engine is None:
                engine = create_engine(self._url, pool_pre_ping=True)
                try:
                    _TABLES.create_all(engine)
                except SQLAlchemyError:  # another process may have made the table at the same time
                    _TABLES.create_all(engine)
                self._engine = engine
            return self._engine

    def _write(self) -> None:
        self._purge()
        ended = False
        while not ended:
            try:
                row = self._queue.get(timeout=PURGE_SECONDS)
            except queue.Empty:
                self._purge()
                continue
            rows = [] if row is None else [row]
            ended = row is None
            while len(rows) < BATCH_ROWS and not ended:
                try:
                    row = self._queue.get_nowait()
                except queue.Empty:
                    break
                ended = row is None
                rows += [] if row is None else [row]
            if rows:
                self.write_now(rows)

    def _purge(self) -> None:
        try:
            with self._database().begin() as connection:
                self._delete_old(connection)
        except Exception as error:  # the driver may be missing or raise its own exceptions
            self._log_fault(error)

    def _delete_old(self, connection: Connection) -> None:
        connection.execute(delete(_ROWS).where(_ROWS.c.at < self._oldest()))

    def write_now(self, rows: list[Disagreement]) -> None:
        """Write rows in the calling thread, and delete the ones over the limits."""
        content = [database_values(row) for row in rows]
        try:
            with self._database().begin() as connection:
                connection.execute(insert(_ROWS), content)
                self._delete_old(connection)
                newest = connection.execute(select(func.max(_ROWS.c.id))).scalar() or 0
                connection.execute(delete(_ROWS).where(_ROWS.c.id <= newest - self._capacity))
        except Exception as error:  # the driver may be missing or raise its own exceptions
            self._metrics.experiments.disagreements_lost.inc(len(rows))
            self._log_fault(error)
        else:
            if self._broken and time.monotonic() >= self._fault_until:
                logger.info("the database of disagreements works again")
                self._broken = False

    def _log_fault(self, error: Exception) -> None:
        # Log the class only: the message of SQLAlchemy contains the row, and so the text. Log once, not for every row.
        if not self._broken:
            cause = type(error.__cause__ or error).__name__
            logger.error(
                "the database of disagreements cannot be used (%s): rows are lost, answers are not affected", cause
            )
        self._broken = True
        self._fault_until = time.monotonic() + FAULT_INTERVAL_SECONDS


def _may_have_rows(url: str) -> bool:
    """Return False if no earlier process can have left rows: the SQLite file does not exist."""
    try:
        place = make_url(url)
    except SQLAlchemyError:  # reported when there is a row to write
        return False
    return place.get_backend_name() != "sqlite" or (bool(place.database) and Path(str(place.database)).is_file())


def database_values(row: Disagreement) -> dict[str, Any]:
    """Return the columns of a row; NUL characters, which PostgreSQL refuses, become the replacement character."""
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in asdict(row).items()
    }
