"""Clients' JSON is parsed without the collector of cycles, which is back whatever comes of it."""

import gc
import json

import pytest

from sparserve.service.http.json_body import SMALL_BYTES, parse_json


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_nothing_is_collected_meanwhile_however_much_is_made() -> None:
    content = b"[" + b",".join([b"[]"] * 50_000) + b"]"
    gc.collect()
    before = collections()
    found = parse_json(content, json.loads)
    assert collections() <= before + 1  # one is due as soon as it is on again
    assert gc.isenabled() and len(found) == 50_000


def test_the_collector_is_as_it_was_whatever_is_raised() -> None:
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
