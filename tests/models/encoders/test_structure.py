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
        ({"heads": ((0,), ())}, "heads of layer 1: none would stay"),
        ({"units": ((), (0,))}, "units of layer 0: none would stay"),
        ({"hidden": ()}, "hidden dimensions: none would stay"),
        ({"heads": ((2, 0), (1,))}, "heads of layer 0: not distinct indices in order"),
        ({"units": ((0,), (3, 3))}, "units of layer 1: not distinct indices in order"),
        ({"hidden": (-1, 2)}, "hidden dimensions: not distinct indices in order"),
        ({"heads": ((0,),)}, "heads of 1 layers, but units of 2"),
    ],
)
def test_what_is_no_structure_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        Structure(**{**OUTER.model_dump(), **changes})


def test_a_structure_is_read_as_it_was_written(tmp_path):
    assert load_structure(tmp_path) is None
    OUTER.save(tmp_path)
    assert load_structure(tmp_path) == OUTER


@pytest.mark.parametrize("content", ["{", "[]", '{"heads": [[0]]}', '{"heads": [[]], "units": [[0]]}'])
def test_a_forged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / STRUCTURE).write_text(content)
    with pytest.raises(CheckpointError, match=r"structure\.json is not the structure"):
        load_structure(tmp_path)


def test_the_second_structure_counts_in_what_the_first_left():
    inner = Structure(heads=((0, 2), (0,)), units=((1,), (0, 1)), hidden=(1, 3))
    assert compose(OUTER, inner) == Structure(heads=((0, 3), (1,)), units=((4,), (0, 5)), hidden=(3, 7))


def test_hidden_dimensions_that_are_not_mentioned_stay_as_they_are():
    same = {"heads": ((0, 1, 2), (0,)), "units": ((0, 1, 2), (0, 1))}
    assert compose(OUTER, Structure(**same)) == OUTER
    whole = OUTER.model_copy(update={"hidden": None})
    assert compose(whole, Structure(**same, hidden=(2, 9))).hidden == (2, 9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"heads": ((0,), (1,))}, "heads of layer 1: index 1 of only 1"),
        ({"units": ((3,), (0,))}, "units of layer 0: index 3 of only 3"),
        ({"hidden": (0, 4)}, "hidden dimensions: index 4 of only 4"),
        ({"heads": ((0,),), "units": ((0,),)}, "1 layers for a network of 2 layers"),
    ],
)
def test_what_the_first_did_not_leave_cannot_be_kept(changes, reason):
    inner = {"heads": ((0,), (0,)), "units": ((0,), (0,)), **changes}
    with pytest.raises(CheckpointError, match=reason):
        compose(OUTER, Structure(**inner))


@st.composite
def chains(draw):
    """Three structures of one layer, each of what the one before leaves."""
    sizes, chain = [12, 20, 16], []
    for _ in range(3):
        kept = [tuple(sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))) for size in sizes]
        chain.append(Structure(heads=(kept[0],), units=(kept[1],), hidden=kept[2]))
        sizes = [len(indices) for indices in kept]
    return chain


@given(chains())
def test_composition_is_associative(chain):
    first, second, third = chain
    assert compose(compose(first, second), third) == compose(first, compose(second, third))
