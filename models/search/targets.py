"""A constraint as a user writes it: `latency<=3ms@1x64`, `size<=6MB` or `accuracy_drop<=1.0`."""

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
    "write latency<=3ms@1x64 (median; ms or s; batch x tokens), size<=6MB (of the file that is served; B, KB, MB, GB, "
    "KiB, MiB or GiB) or accuracy_drop<=1.0 (points below dense on the validation split)"
)
_TARGET = re.compile(
    r"(?P<quantity>[a-z_]+)\s*<=\s*(?P<limit>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[A-Za-z]*)"
    r"(?:\s*@\s*(?P<batch>[1-9]\d*)\s*x\s*(?P<length>[1-9]\d*))?"
)


@dataclass(frozen=True)
class Target:
    """A quantity and the most that it may be."""

    quantity: Quantity
    limit: float
    """Seconds of a latency, bytes of a size, percentage points of an accuracy drop."""
    cell: tuple[int, int] | None = None
    """Batch and length [tokens] of a latency."""

    @property
    def costs(self) -> bool:
        """Whether more compression helps to meet it; it hurts an accuracy drop."""
        return self.quantity != "accuracy_drop"

    def value(self, serving: Serving) -> float:
        """What the serving has of the quantity, in the limit's unit."""
        if self.cell is not None:
            return serving.p50_seconds(self.cell)
        return float(serving.bytes) if self.quantity == "size" else serving.drop_points

    def met_by(self, serving: Serving) -> bool:
        """Whether the serving has no more of the quantity than it may."""
        return self.value(serving) <= self.limit

    def excess(self, serving: Serving) -> float:
        """How far the serving is from the limit, as a fraction of it (of at least one point of accuracy); 0: it met."""
        scale = self.limit if self.costs else max(self.limit, 1.0)
        return max(self.value(serving) - self.limit, 0.0) / scale

    def spell(self, value: float) -> str:
        """A value of this quantity for people."""
        if self.cell is not None:
            time = f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
            return f"{time} at {self.cell[0]} x {self.cell[1]}"
        return f"{value / 1e6:.3g} MB" if self.quantity == "size" else f"{value:.3g} points"

    def __str__(self) -> str:
        return f"{self.quantity.replace('_', ' ')} <= {self.spell(self.limit)}"


def parse_target(text: str) -> Target:
    """Read a constraint.

    Raises:
        InputError: it is none; the message shows the forms that are.
    """
    found = _TARGET.fullmatch(text.strip())
    if found is None or found["quantity"] not in get_args(Quantity):
        raise InputError(f"--target {text!r} is no constraint: {FORMS}")
    quantity, limit, unit = found["quantity"], float(found["limit"]), found["unit"]
    if (quantity == "latency") != (found["batch"] is not None):
        raise InputError(f"--target {text!r}: a latency is for a cell such as @1x64, and nothing else is: {FORMS}")
    units = {"latency": SECONDS, "size": BYTES, "accuracy_drop": {"": 1.0}}[quantity]
    if unit not in units:
        raise InputError(f"--target {text!r}: {unit or 'no unit'!r} is no unit of {quantity}: {FORMS}")
    if quantity == "accuracy_drop":
        return Target("accuracy_drop", limit)
    if limit == 0:
        raise InputError(f"--target {text!r}: nothing has no {quantity}: {FORMS}")
    if quantity == "size":
        return Target("size", limit * units[unit])
    return Target("latency", limit * units[unit], (int(found["batch"]), int(found["length"])))


def phrase(targets: Sequence[Target]) -> str:
    """The targets, joined."""
    return " and ".join(map(str, targets))
