"""Structure of a squeezed network: the heads, feed-forward units and hidden dimensions that it keeps."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from sparserve.models.errors import CheckpointError
from sparserve.models.files import write_atomically

STRUCTURE = "structure.json"


class Structure(BaseModel):
    """Kept indices of the network that the configuration describes, one tuple per layer, the lowest layer first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: tuple[tuple[int, ...], ...]
    units: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...] | None = None  # the same for all layers, embeddings and LayerNorms; None: all

    @model_validator(mode="after")
    def _valid_indices(self) -> Self:
        if len(self.heads) != len(self.units):
            raise ValueError(f"heads are given for {len(self.heads)} layers, but units for {len(self.units)}")
        parts = {f"heads of layer {layer}": kept for layer, kept in enumerate(self.heads)}
        parts |= {f"units of layer {layer}": kept for layer, kept in enumerate(self.units)}
        if self.hidden is not None:
            parts["hidden dimensions"] = self.hidden
        for part, kept in parts.items():
            if not kept:
                raise ValueError(f"{part}: none is kept")
            if list(kept) != sorted(set(kept)) or kept[0] < 0:
                raise ValueError(f"{part}: indices must be distinct and ascending")
        return self

    def save(self, folder: Path) -> None:
        """Write the structure beside a checkpoint's weights."""
        write_atomically(folder / STRUCTURE, self.model_dump_json() + "\n")


def compose(outer: Structure, inner: Structure) -> Structure:
    """Return the structure after `outer` and then `inner`, whose indices refer to the network that `outer` leaves.

    Raises:
        CheckpointError: `inner` has another number of layers, or an index beyond what `outer` keeps.
    """
    if len(outer.heads) != len(inner.heads):
        raise CheckpointError(
            f"The structure has {len(inner.heads)} layers, but the network has {len(outer.heads)} layers."
        )
    hidden = inner.hidden
    if outer.hidden is not None:
        hidden = outer.hidden if hidden is None else _select(outer.hidden, hidden, "hidden dimensions")
    return Structure(
        heads=_select_per_layer(outer.heads, inner.heads, "heads"),
        units=_select_per_layer(outer.units, inner.units, "units"),
        hidden=hidden,
    )


def load_structure(folder: Path) -> Structure | None:
    """Return the structure of a squeezed checkpoint; None if the checkpoint was never squeezed.

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


def _select_per_layer(
    outer: tuple[tuple[int, ...], ...], inner: tuple[tuple[int, ...], ...], part: str
) -> tuple[tuple[int, ...], ...]:
    pairs = enumerate(zip(outer, inner, strict=True))
    return tuple(_select(kept, indices, f"{part} of layer {layer}") for layer, (kept, indices) in pairs)


def _select(kept: tuple[int, ...], indices: tuple[int, ...], part: str) -> tuple[int, ...]:
    if indices[-1] >= len(kept):
        raise CheckpointError(f"{part}: index {indices[-1]} is out of range; the network has {len(kept)}.")
    return tuple(kept[index] for index in indices)
