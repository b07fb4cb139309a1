"""Inputs on which two variants disagreed, in a small database: SQLite by default, any other by its SQLAlchemy URL.

Rows are written by a thread of their own, which also deletes those that are too old, soon after the start and every
hour. A database that is slow, full or gone costs rows, which are counted, and never an answer.
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

WAITING: Final = 1000
BATCH: Final = 100
CLOSE_SECONDS: Final = 5.0
# Rows may be so much older than they should before they are deleted; they are not shown meanwhile.
PURGE_SECONDS: Final = 3600.0
# A disk that is almost full takes some rows and not others: that is one fault, not many.
SILENT_SECONDS: Final = 60.0


class _UtcTime(TypeDecorator[datetime]):
    """A time in UTC, also where the database keeps no offsets, as SQLite does not."""

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
    """One input that two variants gave different labels; `difference` is the largest of a score."""

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
    """The database and the thread that writes to it; neither exists before the first row, of this start or another.

    Args:
        url: SQLAlchemy's URL of the database.
        most: rows that are kept; the oldest go first.
        days: how long a row is kept.
    """

    def __init__(self, url: str, *, most: int, days: float, metrics: Metrics) -> None:
        self._url = url
        self._most = most
        self._keep = timedelta(days=days)
        self._metrics = metrics
        self._waiting: queue.Queue[Disagreement | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        self._broken = False
        self._silent_until = 0.0
        if _may_have_rows(url):
            self._start()

    def add(self, row: Disagreement) -> None:
        """Keep a row, some time soon; never waits, and drops it where too many are waiting."""
        if self._thread is None:
            self._start()
        try:
            self._waiting.put_nowait(row)
        except queue.Full:
            self._metrics.disagreements_lost.inc()

    def recent(self, task: str, limit: int) -> list[Disagreement]:
        """The newest rows of a task; none where the database cannot be read. Waits for it: not for the event loop."""
        kept = (_ROWS.c.task == task) & (_ROWS.c.at >= self._oldest())
        query = select(_ROWS).where(kept).order_by(desc(_ROWS.c.id)).limit(limit)
        try:
            with self._database().connect() as connection:
                found = [dict(row) for row in connection.execute(query).mappings()]
        except (SQLAlchemyError, ImportError) as error:
            self._tell(error)
            return []
        return [Disagreement(**{name: value for name, value in row.items() if name != "id"}) for row in found]

    def close(self) -> None:
        """Write what waits, and close the database; what takes longer than `CLOSE_SECONDS` is lost."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # then the writer hangs, and there is no sense in waiting long
                self._waiting.put(None, timeout=CLOSE_SECONDS / 2)
            self._thread.join(CLOSE_SECONDS / 2)
            if self._thread.is_alive():
                logger.error("the database of disagreements does not answer: what waits for it is lost")
                return
        if self._engine is not None:
            self._engine.dispose()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._write, name="disagreements", daemon=True)
        self._thread.start()

    def _oldest(self) -> datetime:
        return datetime.now(UTC) - self._keep

    def _database(self) -> Engine:
        with self._opening:  # a reader and the writer may both be the first
            if self._engine is None:
                engine = create_engine(self._url, pool_pre_ping=True)
                _TABLES.create_all(engine)
                self._engine = engine
            return self._engine

    def _write(self) -> None:
        self._purge()
        ended = False
        while not ended:
            try:
                row = self._waiting.get(timeout=PURGE_SECONDS)
            except queue.Empty:
                self._purge()
                continue
            rows = [] if row is None else [row]
            ended = row is None
            while len(rows) < BATCH and not ended:
                try:
                    row = self._waiting.get_nowait()
                except queue.Empty:
                    break
                ended = row is None
                rows += [] if row is None else [row]
            if rows:
                self._insert(rows)

    def _purge(self) -> None:
        try:
            with self._database().begin() as connection:
                self._delete_old(connection)
        except Exception as error:  # a driver that is missing, or raises what SQLAlchemy does not know
            self._tell(error)

    def _delete_old(self, connection: Connection) -> None:
        connection.execute(delete(_ROWS).where(_ROWS.c.at < self._oldest()))

    def _insert(self, rows: list[Disagreement]) -> None:
        content = [_storable(row) for row in rows]
        try:
            with self._database().begin() as connection:
                connection.execute(insert(_ROWS), content)
                self._delete_old(connection)
                newest = connection.execute(select(func.max(_ROWS.c.id))).scalar() or 0
                connection.execute(delete(_ROWS).where(_ROWS.c.id <= newest - self._most))
        except Exception as error:  # a driver that is missing, or raises what SQLAlchemy does not know
            self._metrics.disagreements_lost.inc(len(rows))
            self._tell(error)
        else:
            if self._broken and time.monotonic() >= self._silent_until:
                logger.info("the database of disagreements is written again")
                self._broken = False

    def _tell(self, error: Exception) -> None:
        # The class alone: SQLAlchemy's message repeats the row, and so the text. Once, not for every row.
        if not self._broken:
            cause = type(error.__cause__ or error).__name__
            logger.error("the database of disagreements cannot be used (%s): rows are lost, answers are not", cause)
        self._broken = True
        self._silent_until = time.monotonic() + SILENT_SECONDS


def _may_have_rows(url: str) -> bool:
    """Whether an earlier start may have left rows: not where SQLite has no file yet."""
    try:
        place = make_url(url)
    except SQLAlchemyError:  # told once there is a row to write
        return False
    return place.get_backend_name() != "sqlite" or (bool(place.database) and Path(str(place.database)).is_file())


def _storable(row: Disagreement) -> dict[str, Any]:
    """A row's columns; NUL, which is a character but none that PostgreSQL takes, is the replacement character."""
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in asdict(row).items()
    }
