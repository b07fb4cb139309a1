"""Texts to tokens: short ones at once, long ones on threads of their own, so that neither holds up the event loop."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from sparserve.models.bundle.inference import Tokens
from sparserve.service.errors import DeadlineExceeded, Overloaded
from sparserve.service.inference.engine import Engine
from sparserve.service.types import TextInput

# Texts of so few characters are tokenised in less time than it takes to hand them to a thread and back.
AT_ONCE: Final = 2_000
THREADS: Final = 2
# What two threads tokenise in a few seconds.
WAITING_CHARACTERS: Final = 8_000_000


class Tokenizing:
    """Tokenises for one batcher."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "tokenize")
        self._waiting: dict[Future[list[Tokens]], int] = {}

    async def tokens(
        self, engine: Engine, inputs: Sequence[TextInput], *, truncate: bool, deadline: float | None = None
    ) -> list[Tokens]:
        """Tokens of each input; `deadline` is on the performance counter.

        Raises:
            InvalidRequest: an input cannot be tokenised as asked.
            Overloaded: too many long texts are waiting already.
            DeadlineExceeded: it took too long; what had not begun is not done.
        """
        characters = sum(item.characters for item in inputs)
        if characters <= AT_ONCE:
            return engine.tokenize(inputs, truncate=truncate)
        self._waiting = {work: size for work, size in self._waiting.items() if not work.done()}
        waiting = sum(self._waiting.values())
        if waiting and waiting + characters > WAITING_CHARACTERS:
            raise Overloaded(f"{waiting} characters are waiting to be tokenised: try again in 1 s", 1)
        work = self._threads.submit(engine.tokenize, inputs, truncate=truncate)
        self._waiting[work] = characters
        try:
            async with asyncio.timeout(None if deadline is None else max(deadline - time.perf_counter(), 0)):
                return await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise DeadlineExceeded("tokenising the texts took too long: nothing more is computed for them") from error

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
