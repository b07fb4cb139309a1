"""JSON is parsed with the garbage collector paused; it is restored in any case."""

import gc
import json

import pytest

from sparserve.service.http.json_body import SMALL_BYTES, parse_json


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_parse_json_pauses_the_garbage_collector() -> None:
    content = b"[" + b",".join([b"[]"] * 50_000) + b"]"
    gc.collect()
    before = collections()
    found = parse_json(content, json.loads)
    assert collections() <= before + 1  # one is due as soon as it is on again
    assert gc.isenabled() and len(found) == 50_000


def test_parse_json_restores_the_garbage_collector() -> None:
    content = b" " * SMALL_BYTES + b"["
    with pytest.raises(json.JSONDecodeError):
        parse_json(content, json.loads)
    assert gc.isenabled()
    gc.disable()
    try:
        assert parse_json(content + b"]", json.loads) == []
        assert not gc.isenabled()
    finally:
        gc.enable()
