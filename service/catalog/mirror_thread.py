"""The thread that keeps a mirror up to date. Callers wait for it only for a limited time, because a URL may hang."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sparserve.service.catalog.mirror import Mirror
from sparserve.service.catalog.snapshot import ModelKey

logger = logging.getLogger(__name__)

# Time limit of one task of the thread, after which the callers that wait for it, or behind it, give up.
MIRROR_TIMEOUT_SECONDS: Final = 10.0
_Result = TypeVar("_Result")
_Job = tuple[Callable[[], Any], Future[Any]]


class MirrorThread:
    """Syncs a mirror every few seconds. The thread starts with the first request.

    Args:
        mirror: the mirror.
        seconds: interval between two syncs; 0 syncs on request only.
        required: returns the versions to keep besides the current ones and those that were fetched.
        synced: called after each sync, successful or not; must not raise.
    """

    def __init__(
        self,
        mirror: Mirror,
        *,
        seconds: float,
        required: Callable[[], Mapping[ModelKey, set[str]]],
        synced: Callable[[], None],
    ) -> None:
        self.place = mirror.place
        self.fault: str | None = f"the store {mirror.place} is being read for the first time"
        self._mirror = mirror
        self._seconds = seconds
        self._required = required
        self._synced = synced
        self._fetched: dict[ModelKey, str] = {}
        self._failing = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed: Future[None] = Future()
        self._busy_since: float | None = None
        self._starting = threading.Lock()
        # A daemon, so that a hanging socket does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="store-mirror", daemon=True)

    def begin(self) -> None:
        """Start to sync the mirror regularly."""
        self._submit(self._sync)

    def sync(self) -> None:
        """Sync the mirror now.

        Raises:
            TimeoutError: it takes too long; the sync continues.
        """
        self._call(self._sync)

    def fetch(self, task: str, variant: str, version: str) -> None:
        """Copy one version into the mirror, and keep it until another one is fetched.

        Raises:
            BundleError: it is missing or incomplete at the URL.
            OSError: the URL cannot be read.
            TimeoutError: it takes too long; the copy continues.
        """
        self._fetched[task, variant] = version
        self._call(partial(self._mirror.fetch, task, variant, version))

    def published(self, task: str, variant: str) -> dict[str, float]:
        """Return every version at the URL with its publication time in Unix seconds.

        Raises:
            OSError: the URL cannot be read.
            TimeoutError: it takes too long.
        """
        return self._call(partial(self._mirror.published, task, variant))

    def close(self) -> None:
        """Start no more work, and release all callers."""
        if not self._closed.done():
            self._closed.set_result(None)
        self._jobs.put(None)

    def _sync(self) -> None:
        required = self._required()
        kept = {key: required.get(key, set()) | {version} for key, version in self._fetched.copy().items()}
        try:
            self._mirror.sync({**required, **kept})
        except OSError as error:
            if not self._failing:  # once, not every few seconds
                logger.error("%s; mirrored bundles are still served", error)
            self._failing, self.fault = True, str(error)
        else:
            self._failing, self.fault = False, None
        self._synced()

    def _submit(self, work: Callable[[], _Result]) -> "Future[_Result]":
        future: Future[_Result] = Future()
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()
        self._jobs.put((work, future))
        return future

    def _call(self, work: Callable[[], _Result]) -> _Result:
        """Return the result of work on the thread; the time that a hanging job has taken already counts as waiting."""
        future, busy_since = self._submit(work), self._busy_since
        waited = 0 if busy_since is None else time.monotonic() - busy_since
        either: list[Future[Any]] = [future, self._closed]
        wait(either, max(MIRROR_TIMEOUT_SECONDS - waited, 0), return_when=FIRST_COMPLETED)
        if not future.done():
            future.cancel()
            raise TimeoutError(f"the store {self.place} takes long to answer")
        return future.result()

    def _run(self) -> None:
        while not self._closed.done():
            try:
                job = self._jobs.get(timeout=self._seconds or None)
            except Empty:
                job = (self._sync, Future())
            if job is None:
                return
            work, future = job
            if not future.set_running_or_notify_cancel():
                continue
            self._busy_since = time.monotonic()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
            self._busy_since = None
