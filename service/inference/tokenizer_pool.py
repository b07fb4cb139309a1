"""Tokenization off the event loop: short texts are tokenised inline, long ones on a thread pool."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from sparserve.models.bundle.long_texts import TokenizedInput, WindowLimits
from sparserve.models.bundle.windows import LongTexts
from sparserve.service.errors import DeadlineExceeded, Overloaded
from sparserve.service.inference.engine import Engine
from sparserve.service.types import TextInput

# Tokenising this much text takes less time than handing it to a thread and back.
TOKENIZE_INLINE_MAX_CHARACTERS: Final = 2_000
TOKENIZER_THREADS: Final = 2
# The threads tokenise this much text in a few seconds.
MAX_WAITING_CHARACTERS: Final = 8_000_000


class TokenizerPool:
    """Tokenises the inputs of one batcher, of which a request may have as many windows as `limits` say."""

    def __init__(self, limits: WindowLimits | None = None) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, "tokenize")
        self._waiting: dict[Future[list[TokenizedInput]], int] = {}

    async def tokenize(
        self, engine: Engine, inputs: Sequence[TextInput], *, long_texts: LongTexts, deadline: float | None = None
    ) -> list[TokenizedInput]:
        """Return the tokens of each input; `deadline` is on the performance counter.

        Raises:
            InvalidRequest, TooLarge: an input cannot be tokenised as requested.
            Overloaded: too many long texts are waiting.
            DeadlineExceeded: it took too long; texts that were still waiting are not tokenised.
        """
        characters = sum([item.characters for item in inputs])
        if characters <= TOKENIZE_INLINE_MAX_CHARACTERS:
            return engine.tokenize(inputs, long_texts=long_texts, limits=self._limits)
        self._waiting = {work: size for work, size in self._waiting.items() if not work.done()}
        waiting = sum(self._waiting.values())
        if waiting and waiting + characters > MAX_WAITING_CHARACTERS:
            raise Overloaded(f"{waiting} characters are waiting for tokenization: try again in 1 s", 1)
        work = self._threads.submit(engine.tokenize, inputs, long_texts=long_texts, limits=self._limits)
        self._waiting[work] = characters
        try:
            async with asyncio.timeout(None if deadline is None else max(deadline - time.perf_counter(), 0)):
                return await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise DeadlineExceeded("Deadline exceeded during tokenization; the request was cancelled.") from error
        finally:
            if work.done():  # its tokens may be many megabytes
                self._waiting.pop(work, None)

    def close(self) -> None:
        """Start no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
