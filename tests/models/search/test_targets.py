"""Targets of a search: parsed, compared with servings, and printed."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparserve.models.bundle.manifest import LatencyPoint
from sparserve.models.errors import InputError
from sparserve.models.search.outcomes import Serving
from sparserve.models.search.targets import Target, parse_target, phrase


def serving(*, size: int = 5_000_000, milliseconds: float = 2.0, drop: float = 0.5) -> Serving:
    point = LatencyPoint(
        batch=1, length=64, p50_seconds=milliseconds / 1e3, p95_seconds=1, items_per_second=1, dense_p50_seconds=1
    )
    return Serving(
        variant="demo-sparsity90",
        version="0123456789abcdef",
        precision="fp32",
        runtime="sparse",
        preferred=True,
        bytes=size,
        latency=(point,),
        accuracy=0.9,
        drop_points=drop,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency<=3ms@1x64", Target("latency", 0.003, (1, 64))),
        (" latency <= .5 s @ 8 x 128 ", Target("latency", 0.5, (8, 128))),
        ("size<=6MB", Target("size", 6e6)),
        ("size<=512KB", Target("size", 512e3)),
        ("size<=1.5MiB", Target("size", 1.5 * 2**20)),
        ("accuracy_drop<=1.0", Target("accuracy_drop", 1.0)),
        ("accuracy_drop<=0", Target("accuracy_drop", 0.0)),
    ],
)
def test_parse_target_reads_units(text: str, expected: Target) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency<3ms@1x64", "is not a constraint"),
        ("speed<=3ms@1x64", "is not a constraint"),
        ("latency<=3ms", "a latency needs a cell"),
        ("size<=6MB@1x64", "a latency needs a cell"),
        ("latency<=3ms@0x64", "is not a constraint"),
        ("latency<=3@1x64", "'no unit' is not a unit of latency"),
        ("latency<=3MB@1x64", "'MB' is not a unit of latency"),
        ("size<=6mb", "'mb' is not a unit of size"),
        ("accuracy_drop<=1%", "is not a constraint"),
        ("accuracy_drop<=-1", "is not a constraint"),
        ("size<=0MB", "a size limit must be above 0"),
        ("size<=nanMB", "is not a constraint"),
        ("", "is not a constraint"),
    ],
)
def test_parse_target_refuses_other_texts_and_shows_the_forms(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_target(text)
    assert message in str(refused.value)
    assert "latency<=3ms@1x64" in str(refused.value)


@given(st.text(max_size=40))
def test_parse_target_raises_input_error_for_any_other_text(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_target(text).limit >= 0


def test_target_compares_servings_in_its_unit() -> None:
    near = serving(size=6_600_000, milliseconds=3.0, drop=1.5)
    assert parse_target("latency<=3ms@1x64").met_by(near)
    assert not parse_target("latency<=2.9ms@1x64").met_by(near)
    assert not parse_target("latency<=3ms@8x64").met_by(near), "a cell that was not measured"
    assert not parse_target("size<=6MB").met_by(near)
    assert parse_target("size<=6MB").excess(near) == pytest.approx(0.1)
    assert parse_target("accuracy_drop<=0").excess(near) == pytest.approx(1.5)
    assert parse_target("accuracy_drop<=2").excess(near) == 0


def test_phrase_joins_targets() -> None:
    targets = [parse_target(text) for text in ("latency<=3ms@1x64", "size<=6MB", "accuracy_drop<=1")]
    assert phrase(targets) == "latency <= 3 ms at 1 x 64 and size <= 6 MB and accuracy drop <= 1 points"
