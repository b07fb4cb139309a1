"""Which heads, feed-forward units and hidden dimensions of a network stay: a squeezed checkpoint is rebuilt from it."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from sparserve.models.errors import CheckpointError
from sparserve.models.files import write_atomically

STRUCTURE = "structure.json"


class Structure(BaseModel):
    """Indices that stay, of the network that the configuration describes; one tuple a layer, the lowest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: tuple[tuple[int, ...], ...]
    units: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...] | None = None  # one set for all layers, embeddings and LayerNorms; None: all

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if len(self.heads) != len(self.units):
            raise ValueError(f"heads of {len(self.heads)} layers, but units of {len(self.units)}")
        named = {f"heads of layer {layer}": kept for layer, kept in enumerate(self.heads)}
        named |= {f"units of layer {layer}": kept for layer, kept in enumerate(self.units)}
        if self.hidden is not None:
            named["hidden dimensions"] = self.hidden
        for what, kept in named.items():
            if not kept:
                raise ValueError(f"{what}: none would stay")
            if list(kept) != sorted(set(kept)) or kept[0] < 0:
                raise ValueError(f"{what}: not distinct indices in order")
        return self

    def save(self, folder: Path) -> None:
        """Write the structure beside a checkpoint's weights."""
        write_atomically(folder / STRUCTURE, self.model_dump_json() + "\n")


def compose(outer: Structure, inner: Structure) -> Structure:
    """What stays of a network after `outer` and then `inner`, whose indices are of the network that `outer` leaves.

    Raises:
        CheckpointError: `inner` is of another number of layers, or has an index beyond what `outer` keeps.
    """
    if len(outer.heads) != len(inner.heads):
        raise CheckpointError(f"a structure of {len(inner.heads)} layers for a network of {len(outer.heads)} layers")
    hidden = inner.hidden
    if outer.hidden is not None:
        hidden = outer.hidden if hidden is None else _picked(outer.hidden, hidden, "hidden dimensions")
    return Structure(
        heads=_each_picked(outer.heads, inner.heads, "heads"),
        units=_each_picked(outer.units, inner.units, "units"),
        hidden=hidden,
    )


def load_structure(folder: Path) -> Structure | None:
    """The structure of a squeezed checkpoint; None where the checkpoint is a whole network.

    Raises:
        CheckpointError: the file is not a structure.
    """
    path = folder / STRUCTURE
    if not path.is_file():
        return None
    try:
        return Structure.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is not the structure of a squeezed network: {error}") from error


def _each_picked(
    outer: tuple[tuple[int, ...], ...], inner: tuple[tuple[int, ...], ...], what: str
) -> tuple[tuple[int, ...], ...]:
    pairs = enumerate(zip(outer, inner, strict=True))
    return tuple(_picked(kept, places, f"{what} of layer {layer}") for layer, (kept, places) in pairs)


def _picked(kept: tuple[int, ...], places: tuple[int, ...], what: str) -> tuple[int, ...]:
    if places[-1] >= len(kept):
        raise CheckpointError(f"{what}: index {places[-1]} of only {len(kept)}")
    return tuple(kept[place] for place in places)
