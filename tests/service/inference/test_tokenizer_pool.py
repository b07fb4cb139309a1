"""Tokenization inline and on threads, with deadlines and limits."""

import asyncio
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from sparserve.models.bundle.long_texts import WindowLimits
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.windows import TRUNCATE, LongTexts
from sparserve.service.errors import DeadlineExceeded, Overloaded
from sparserve.service.inference.tokenizer_pool import (
    MAX_WAITING_CHARACTERS,
    TOKENIZE_INLINE_MAX_CHARACTERS,
    TOKENIZER_THREADS,
    TokenizerPool,
)
from sparserve.service.types import TextInput
from tests.support.service.fake_engine import inputs

SHORT = [TextInput(text="a" * (TOKENIZE_INLINE_MAX_CHARACTERS - 1), text_pair="b")]
LONG = [TextInput(text="a" * TOKENIZE_INLINE_MAX_CHARACTERS, text_pair="b")]


class Counting:
    """Tokenises nothing, but knows on which threads; a closed gate holds it up."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def tokenize(
        self, texts: Sequence[TextInput], *, long_texts: LongTexts, limits: WindowLimits | None
    ) -> list[Tokens]:
        self.threads.append(threading.current_thread().name)
        self.gate.wait(timeout=10)
        return inputs(*[3 + (long_texts == TRUNCATE)] * len(texts))


def scenario(steps: Any) -> None:
    async def main() -> None:
        pool, engine = TokenizerPool(), Counting()
        try:
            await steps(pool, engine)
        finally:
            engine.gate.set()
            pool.close()

    asyncio.run(main())


def test_tokenizer_pool_short_texts_inline() -> None:
    async def steps(pool: TokenizerPool, engine: Any) -> None:
        assert await pool.tokenize(engine, SHORT, long_texts=TRUNCATE) == inputs(4)
        assert await pool.tokenize(engine, LONG * 2, long_texts=LongTexts(overlong="error")) == inputs(3, 3)
        first, second = engine.threads
        assert first == threading.current_thread().name
        assert second.startswith("tokenize")

    scenario(steps)


def test_tokenizer_pool_deadline() -> None:
    async def steps(pool: TokenizerPool, engine: Any) -> None:
        engine.gate.clear()
        before = [
            asyncio.ensure_future(pool.tokenize(engine, LONG, long_texts=TRUNCATE)) for _ in range(TOKENIZER_THREADS)
        ]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="during tokenization"):
            await pool.tokenize(engine, LONG, long_texts=TRUNCATE, deadline=time.perf_counter() + 0.01)
        engine.gate.set()
        await asyncio.gather(*before)
        assert await pool.tokenize(engine, LONG, long_texts=TRUNCATE) == inputs(4)
        assert len(engine.threads) == TOKENIZER_THREADS + 1  # what was given up never began

    scenario(steps)


def test_tokenizer_pool_refuses_over_limit() -> None:
    async def steps(pool: TokenizerPool, engine: Any) -> None:
        engine.gate.clear()
        huge = [TextInput(text="a" * (MAX_WAITING_CHARACTERS + 1))]
        first = asyncio.ensure_future(pool.tokenize(engine, huge, long_texts=TRUNCATE))  # alone it may be of any size
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=f"{MAX_WAITING_CHARACTERS + 1} characters are waiting for tokenization"):
            await pool.tokenize(engine, LONG, long_texts=TRUNCATE)
        engine.gate.set()
        await first
        assert await pool.tokenize(engine, LONG, long_texts=TRUNCATE) == inputs(4)

    scenario(steps)


def test_tokenizer_pool_keeps_no_tokens() -> None:
    async def steps(pool: TokenizerPool, engine: Any) -> None:
        (tokens,) = await pool.tokenize(engine, LONG, long_texts=TRUNCATE)
        kept = weakref.ref(tokens)
        del tokens
        async with asyncio.timeout(10):
            while kept() is not None:  # its thread is about to wait for the next text
                await asyncio.sleep(0)

    scenario(steps)


def test_tokenizer_pool_raises_errors() -> None:
    class Broken(Counting):
        def tokenize(
            self, texts: Sequence[TextInput], *, long_texts: LongTexts, limits: WindowLimits | None
        ) -> list[Tokens]:
            raise ValueError("item 0 has no tokens")

    async def steps(pool: TokenizerPool, engine: Any) -> None:
        for texts in (SHORT, LONG):
            with pytest.raises(ValueError, match="no tokens"):
                await pool.tokenize(Broken(), texts, long_texts=TRUNCATE)

    scenario(steps)
