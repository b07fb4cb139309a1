"""The thread on which a mirror follows its URL: what waits for the URL waits here, and nobody waits for it for long."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sparserve.service.catalog.mirror import Mirror
from sparserve.service.catalog.snapshot import Key

logger = logging.getLogger(__name__)

# How long what the thread does may have taken before those who wait for it, or for what comes after it, give up.
PATIENCE_SECONDS: Final = 10.0
_Result = TypeVar("_Result")
_Work = tuple[Callable[[], Any], Future[Any]]


class Follower:
    """Brings a mirror up to date every few seconds; begins with the first request.

    Args:
        mirror: the mirror.
        seconds: pause between two times; 0: only when asked.
        wanted: versions to have besides the current ones and those that were fetched.
        synced: called after every time, whether the URL could be read or not; raises nothing.
    """

    def __init__(
        self,
        mirror: Mirror,
        *,
        seconds: float,
        wanted: Callable[[], Mapping[Key, set[str]]],
        synced: Callable[[], None],
    ) -> None:
        self.mirror = mirror
        self.fault: str | None = f"the store {mirror.place} is being read for the first time"
        self._seconds = seconds
        self._wanted = wanted
        self._synced = synced
        self._fetched: dict[Key, str] = {}
        self._failing = False
        self._todo: SimpleQueue[_Work | None] = SimpleQueue()
        self._closed: Future[None] = Future()
        self._busy_since: float | None = None
        self._beginning = threading.Lock()
        # What hangs on a socket must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="store-mirror", daemon=True)

    def begin(self) -> None:
        """Bring the mirror up to date from now on."""
        self._submit(self._sync)

    def sync(self) -> None:
        """Bring the mirror up to date now.

        Raises:
            TimeoutError: it takes too long; what has been begun goes on.
        """
        self._ask(self._sync)

    def fetch(self, task: str, variant: str, version: str) -> None:
        """Have one version in the mirror, and keep it until another one is fetched.

        Raises:
            BundleError: it is not at the URL, or not whole.
            OSError: the URL cannot be read.
            TimeoutError: it takes too long; what has been begun goes on.
        """
        self._fetched[task, variant] = version
        self._ask(partial(self.mirror.fetch, task, variant, version))

    def published(self, task: str, variant: str) -> dict[str, float]:
        """Every version at the URL, with the Unix time at which it was published there.

        Raises:
            OSError: the URL cannot be read.
            TimeoutError: it takes too long.
        """
        return self._ask(partial(self.mirror.published, task, variant))

    def close(self) -> None:
        """Begin nothing more, and let nobody wait."""
        if not self._closed.done():
            self._closed.set_result(None)
        self._todo.put(None)

    def _sync(self) -> None:
        wanted = self._wanted()
        kept = {key: wanted.get(key, set()) | {version} for key, version in self._fetched.copy().items()}
        try:
            self.mirror.sync({**wanted, **kept})
        except OSError as error:
            if not self._failing:  # once, not every few seconds
                logger.error("%s; what has been mirrored is served", error)
            self._failing, self.fault = True, str(error)
        else:
            self._failing, self.fault = False, None
        self._synced()

    def _submit(self, work: Callable[[], _Result]) -> "Future[_Result]":
        future: Future[_Result] = Future()
        with self._beginning:
            if self._thread.ident is None:
                self._thread.start()
        self._todo.put((work, future))
        return future

    def _ask(self, work: Callable[[], _Result]) -> _Result:
        """What the thread has to say; nobody waits for it whom the URL would keep waiting for long."""
        future, busy_since = self._submit(work), self._busy_since
        waited = 0 if busy_since is None else time.monotonic() - busy_since
        either: list[Future[Any]] = [future, self._closed]
        wait(either, max(PATIENCE_SECONDS - waited, 0), return_when=FIRST_COMPLETED)
        if not future.done():
            future.cancel()
            raise TimeoutError(f"the store {self.mirror.place} takes long to answer")
        return future.result()

    def _run(self) -> None:
        while not self._closed.done():
            try:
                asked = self._todo.get(timeout=self._seconds or None)
            except Empty:
                asked = (self._sync, Future())
            if asked is None:
                return
            work, future = asked
            if not future.set_running_or_notify_cancel():
                continue
            self._busy_since = time.monotonic()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
            self._busy_since = None
