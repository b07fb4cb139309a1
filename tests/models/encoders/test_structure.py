"""Structures of squeezed networks and their composition."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sparserve.models.encoders.structure import STRUCTURE, Structure, compose, load_structure
from sparserve.models.errors import CheckpointError

OUTER = Structure(heads=((0, 2, 3), (1,)), units=((1, 4, 6), (0, 5)), hidden=(0, 3, 4, 7))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"heads": ((0,), ())}, "heads of layer 1: none is kept"),
        ({"units": ((), (0,))}, "units of layer 0: none is kept"),
        ({"hidden": ()}, "hidden dimensions: none is kept"),
        ({"heads": ((2, 0), (1,))}, "heads of layer 0: indices must be distinct and ascending"),
        ({"units": ((0,), (3, 3))}, "units of layer 1: indices must be distinct and ascending"),
        ({"hidden": (-1, 2)}, "hidden dimensions: indices must be distinct and ascending"),
        ({"heads": ((0,),)}, "heads are given for 1 layers, but units for 2"),
    ],
)
def test_structure_refuses_invalid_indices(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Structure(**{**OUTER.model_dump(), **changes})


def test_structure_round_trip(tmp_path: Path) -> None:
    assert load_structure(tmp_path) is None
    OUTER.save(tmp_path)
    assert load_structure(tmp_path) == OUTER


@pytest.mark.parametrize("content", ["{", "[]", '{"heads": [[0]]}', '{"heads": [[]], "units": [[0]]}'])
def test_load_structure_refuses_a_forged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / STRUCTURE).write_text(content)
    with pytest.raises(CheckpointError, match=r"structure\.json is not the structure"):
        load_structure(tmp_path)


def test_compose_indexes_the_outer_structure() -> None:
    inner = Structure(heads=((0, 2), (0,)), units=((1,), (0, 1)), hidden=(1, 3))
    assert compose(OUTER, inner) == Structure(heads=((0, 3), (1,)), units=((4,), (0, 5)), hidden=(3, 7))


def test_compose_keeps_hidden_dimensions_unless_given() -> None:
    same = {"heads": ((0, 1, 2), (0,)), "units": ((0, 1, 2), (0, 1))}
    assert compose(OUTER, Structure(**same)) == OUTER
    whole = OUTER.model_copy(update={"hidden": None})
    assert compose(whole, Structure(**same, hidden=(2, 9))).hidden == (2, 9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"heads": ((0,), (1,))}, "heads of layer 1: index 1 is out of range; the network has 1"),
        ({"units": ((3,), (0,))}, "units of layer 0: index 3 is out of range; the network has 3"),
        ({"hidden": (0, 4)}, "hidden dimensions: index 4 is out of range; the network has 4"),
        ({"heads": ((0,),), "units": ((0,),)}, "1 layers, but the network has 2 layers"),
    ],
)
def test_compose_refuses_indices_out_of_range(changes: dict[str, Any], reason: str) -> None:
    inner = {"heads": ((0,), (0,)), "units": ((0,), (0,)), **changes}
    with pytest.raises(CheckpointError, match=reason):
        compose(OUTER, Structure(**inner))


@st.composite
def chains(draw: st.DrawFn) -> list[Structure]:
    """Draw three structures of one layer, each for the network that the previous one leaves."""
    sizes, chain = [12, 20, 16], []
    for _ in range(3):
        kept = [tuple(sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))) for size in sizes]
        chain.append(Structure(heads=(kept[0],), units=(kept[1],), hidden=kept[2]))
        sizes = [len(indices) for indices in kept]
    return chain


@given(chains())
def test_compose_is_associative(chain: list[Structure]) -> None:
    first, second, third = chain
    assert compose(compose(first, second), third) == compose(first, compose(second, third))
