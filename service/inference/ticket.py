"""A request that waits for inference, and its inputs."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from sparserve.service.inference.latency_model import LatencyModel


@dataclass(eq=False, slots=True)
class Ticket:
    """A request in the queue.

    `lengths` are the numbers of tokens of its inputs. Inputs of equal `model` can run together. `background` requests
    run only when no others wait. `latency` predicts the run time of its inputs. `client` names who sent it, and
    `weight` is the client's share of the machine relative to others. `padding_costs` is False if the model computes
    (nearly) nothing for padding.

    `waiting` holds the inputs that are in the queue, by length. `virtual_start` belongs to `FairOrder`.
    """

    model: Hashable
    lengths: Sequence[int]
    arrived: float
    deadline: float | None = None
    background: bool = False
    latency: LatencyModel = field(default_factory=LatencyModel)
    client: str = ""
    weight: float = 1.0
    padding_costs: bool = True
    waiting: list["Item"] = field(init=False, default_factory=list)
    virtual_start: float = field(init=False, default=0.0)
    cancelled: bool = field(init=False, default=False)

    def enter(self) -> None:
        """Let all inputs wait."""
        self.waiting = [Item(self, position, length) for position, length in enumerate(self.lengths)]
        if len(self.waiting) > 1:
            self.waiting.sort(key=attrgetter("length"))

    def take(self, positions: Collection[int]) -> None:
        """Let inputs, given by their positions, wait no more."""
        if len(positions) == len(self.waiting):
            self.waiting = []
        else:
            taken = set(positions)
            self.waiting = [item for item in self.waiting if item.position not in taken]

    def expired(self, now: float) -> bool:
        """Return True if the deadline has passed."""
        return self.deadline is not None and now >= self.deadline

    def too_late(self, now: float, tokens: int) -> bool:
        """Return True if a batch of `tokens` tokens that starts now would end after the deadline."""
        return self.deadline is not None and now + self.latency.seconds(tokens) >= self.deadline


class Item(NamedTuple):
    """One input of a request, at `position`, of `length` tokens."""

    ticket: Ticket
    position: int
    length: int
