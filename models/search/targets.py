"""Constraints as users write them: `latency<=3ms@1x64`, `size<=6MB` or `accuracy_drop<=1.0`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sparserve.models.errors import InputError
from sparserve.models.search.outcomes import Serving

Quantity = Literal["latency", "size", "accuracy_drop"]

SECONDS = {"ms": 1e-3, "s": 1.0}
BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
FORMS = (
    "write latency<=3ms@1x64 (median; ms or s; batch x tokens), size<=6MB (of the served file; B, KB, MB, GB, KiB, MiB "
    "or GiB) or accuracy_drop<=1.0 (points below dense on the validation split)"
)
_TARGET = re.compile(
    r"(?P<quantity>[a-z_]+)\s*<=\s*(?P<limit>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]*)"
    r"(?:\s*@\s*(?P<batch>[1-9]\d*)\s*x\s*(?P<length>[1-9]\d*))?"
)


@dataclass(frozen=True)
class Target:
    """A quantity and its upper limit."""

    quantity: Quantity
    limit: float
    """Seconds for a latency, bytes for a size, percentage points for an accuracy drop."""
    cell: tuple[int, int] | None = None
    """Batch and length [tokens] of a latency; None for other quantities."""

    @property
    def costs(self) -> bool:
        """True if more compression helps to meet the target; False for an accuracy drop."""
        return self.quantity != "accuracy_drop"

    def value(self, serving: Serving) -> float:
        """Return the serving's value of the quantity, in the unit of the limit."""
        if self.cell is not None:
            return serving.p50_seconds(self.cell)
        return float(serving.bytes) if self.quantity == "size" else serving.drop_points

    def met_by(self, serving: Serving) -> bool:
        """Return True if the serving is within the limit."""
        return self.value(serving) <= self.limit

    def excess(self, serving: Serving) -> float:
        """Return the excess over the limit as a fraction of it (of at least one point of accuracy); 0 if it is met."""
        scale = self.limit if self.costs else max(self.limit, 1.0)
        return max(self.value(serving) - self.limit, 0.0) / scale

    def spell(self, value: float) -> str:
        """Return a value of this quantity as text."""
        if self.cell is not None:
            time = f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
            return f"{time} at {self.cell[0]} x {self.cell[1]}"
        return f"{value / 1e6:.3g} MB" if self.quantity == "size" else f"{value:.3g} points"

    def __str__(self) -> str:
        return f"{self.quantity.replace('_', ' ')} <= {self.spell(self.limit)}"


def parse_target(text: str) -> Target:
    """Parse a constraint.

    Raises:
        InputError: the text is not a constraint; the message shows the valid forms.
    """
    match = _TARGET.fullmatch(text.strip())
    if match is None or match["quantity"] not in get_args(Quantity):
        raise InputError(f"--target {text!r} is not a constraint: {FORMS}")
    quantity, limit, unit = match["quantity"], float(match["limit"]), match["unit"]
    if (quantity == "latency") != (match["batch"] is not None):
        raise InputError(
            f"--target {text!r}: a latency needs a cell such as @1x64, and no other quantity has one: {FORMS}"
        )
    units = {"latency": SECONDS, "size": BYTES, "accuracy_drop": {"": 1.0}}[quantity]
    if unit not in units:
        raise InputError(f"--target {text!r}: {unit or 'no unit'!r} is not a unit of {quantity}: {FORMS}")
    if quantity == "accuracy_drop":
        return Target("accuracy_drop", limit)
    if limit == 0:
        raise InputError(f"--target {text!r}: a {quantity} limit must be above 0: {FORMS}")
    if quantity == "size":
        return Target("size", limit * units[unit])
    return Target("latency", limit * units[unit], (int(match["batch"]), int(match["length"])))


def phrase(targets: Sequence[Target]) -> str:
    """Return the targets as one phrase."""
    return " and ".join(map(str, targets))
