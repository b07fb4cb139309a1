"""Parts of a request by the frames of the main thread."""

import sys
from types import FrameType

import pytest

from benchmarks.serving.walls import ELSEWHERE, part_of


def frame_of(*modules: str) -> FrameType:
    """Return a frame of the last module, which was called by those before it."""
    module, *inner = modules
    call = eval("lambda: frame_of(*inner) if inner else getframe()", {
        "__name__": module, "frame_of": frame_of, "inner": inner, "getframe": sys._getframe,
    })  # fmt: skip
    found: FrameType = call()
    return found


@pytest.mark.parametrize(
    ("modules", "part"),
    [
        (["sparserve.service.inference.batcher", "sparserve.models.bundle.inference", "numpy"], "model"),
        (["sparserve.service.http.fast_path", "sparserve.models.bundle.text_tokenizer"], "tokenizer"),
        (["__main__", "asyncio.events", "sparserve.service.http.fast_path", "orjson"], "HTTP"),
        (["sparserve.service.drain"], "other parts"),
        (["__main__", "asyncio.base_events", "selectors"], "event loop"),
        (["__main__"], "client of this measurement"),
    ],
)
def test_part_of_is_that_of_the_innermost_frame(modules: list[str], part: str) -> None:
    assert part_of(frame_of(*modules)).startswith(part)


def test_part_of_no_frame() -> None:
    assert part_of(None) == ELSEWHERE
