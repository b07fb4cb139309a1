"""Bounded queue of tokenised inputs, grouped into batches of similar lengths.

The queue does not wait, run models or read a clock; `batcher` does. Invariants, for any sequence of calls: every input
leaves the queue exactly once, in a batch or cancelled; no batch exceeds the budget; the input that has waited longest
is in the next batch, so only background inputs can starve.
"""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from sparserve.service.inference.latency_model import LatencyModel

# Inputs considered for one batch: far more than a batch holds, and sorted in well under a millisecond.
LOOKAHEAD: Final = 1024


@dataclass(eq=False, slots=True)
class Ticket:
    """A request in the queue.

    `lengths` are the numbers of tokens of its inputs. Inputs of equal `model` can run together. `background` requests
    run only when no others wait. `latency` predicts the run time of its inputs.
    """

    model: Hashable
    lengths: Sequence[int]
    arrived: float
    deadline: float | None = None
    background: bool = False
    latency: LatencyModel = field(default_factory=LatencyModel)
    waiting: int = field(init=False)
    cancelled: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.waiting = len(self.lengths)

    def expired(self, now: float) -> bool:
        """Return True if the deadline has passed."""
        return self.deadline is not None and now >= self.deadline

    def too_late(self, now: float, tokens: int) -> bool:
        """Return True if a batch of `tokens` tokens that starts now would end after the deadline."""
        return self.deadline is not None and now + self.latency.seconds(tokens) >= self.deadline


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a request, at `position`, of `length` tokens."""

    ticket: Ticket
    position: int
    length: int


@dataclass(frozen=True)
class Batch:
    """Inputs of one model that run together, sorted by length."""

    model: Hashable
    items: list[Item]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return sum(item.length for item in self.items)

    @property
    def padded_tokens(self) -> int:
        """Number of tokens after padding to the longest input."""
        return len(self.items) * self.items[-1].length


class BatchQueue:
    """Waiting inputs in order of arrival per model; `items` and `tokens` count those not in the background.

    Args:
        budget: maximum tokens of a batch, padding included.
        max_seconds: maximum predicted time of a batch, apart from the fixed time; a longer input runs alone.
        max_padding: maximum fraction of a batch that is padding. On a CPU a batch takes about as long as its inputs
            one after the other, so the cost of padding soon exceeds the gain of a larger batch.
        window_seconds: an input may overtake inputs of its model that arrived at most this much earlier if its length
            fits the batch better.
    """

    def __init__(
        self, *, budget: int, window_seconds: float, max_seconds: float = math.inf, max_padding: float = 1.0
    ) -> None:
        self.budget = budget
        self.max_seconds = max_seconds
        self.max_padding = max_padding
        self.window_seconds = window_seconds
        self.items = 0
        self.tokens = 0
        self.background_items = 0
        self._lanes: dict[tuple[bool, Hashable], deque[Item]] = {}

    def add(self, ticket: Ticket) -> None:
        """Add all inputs of a request.

        Raises:
            ValueError: an input is empty or over the budget of a batch, or there is no input.
        """
        if not ticket.lengths or min(ticket.lengths) < 1 or max(ticket.lengths) > self.budget:
            raise ValueError(f"inputs of {list(ticket.lengths)} tokens cannot run in batches of {self.budget}")
        lane = self._lanes.setdefault((ticket.background, ticket.model), deque())
        lane.extend(Item(ticket, position, length) for position, length in enumerate(ticket.lengths))
        if ticket.background:
            self.background_items += len(ticket.lengths)
        else:
            self.items += len(ticket.lengths)
            self.tokens += sum(ticket.lengths)

    def cancel(self, ticket: Ticket) -> None:
        """Remove the waiting inputs of a request; inputs already in a batch are not affected."""
        if ticket.cancelled:
            return
        ticket.cancelled = True
        lane = self._lanes.get((ticket.background, ticket.model))
        if ticket.waiting and lane is not None:
            self._subtract([item for item in lane if item.ticket is ticket])
            kept = deque(item for item in lane if item.ticket is not ticket)
            self._replace((ticket.background, ticket.model), kept)

    def take(self, now: float) -> Batch | None:
        """Remove and return the next batch, or None if nothing waits. Requests that would be too late are cancelled.

        The batch contains the input that has waited longest. From the other inputs of its model within the window it
        takes the nearest lengths that fill the budget with the most tokens. According to the latency model it ends
        before the deadline of every input in it. The last waiting request runs in any case until its deadline: only
        another batch can correct a latency model that is wrong.
        """
        while self._lanes:
            name = min(self._lanes, key=lambda name: (name[0], self._lanes[name][0].ticket.arrived))
            first = self._lanes[name][0]
            ticket = first.ticket
            if not ticket.too_late(now, first.length) or (self._is_last(ticket) and not ticket.expired(now)):
                return self._batch(name, first, now)
            self.cancel(ticket)
        return None

    def _is_last(self, ticket: Ticket) -> bool:
        return ticket.waiting == self.items + self.background_items

    def _batch(self, name: tuple[bool, Hashable], first: Item, now: float) -> Batch:
        lane = self._lanes[name]
        latest = first.ticket.arrived + self.window_seconds
        budget = self._affordable(first, now)
        candidates = []
        for item in itertools.islice(lane, LOOKAHEAD):
            if item.ticket.arrived > latest:
                break
            if item is first or not item.ticket.too_late(now, budget):
                candidates.append(item)
        candidates.sort(key=attrgetter("length"))
        begin, end = _fullest_range(
            [item.length for item in candidates], candidates.index(first), budget, self.max_padding
        )
        chosen = candidates[begin:end]
        chosen_ids = set(map(id, chosen))
        self._subtract(chosen)
        self._replace(name, deque(item for item in lane if id(item) not in chosen_ids))
        return Batch(first.ticket.model, chosen)

    def _affordable(self, first: Item, now: float) -> int:
        """Return the budget, or less if it would take too long or miss the deadline of the first input."""
        deadline, latency = first.ticket.deadline, first.ticket.latency
        seconds = self.max_seconds + latency.fixed_seconds
        if deadline is not None:
            seconds = min(seconds, deadline - now)
        if seconds >= latency.seconds(self.budget):
            return self.budget
        return max(int(latency.tokens(seconds)), first.length)

    def _subtract(self, items: Sequence[Item]) -> None:
        for item in items:
            item.ticket.waiting -= 1
            if item.ticket.background:
                self.background_items -= 1
            else:
                self.items -= 1
                self.tokens -= item.length

    def _replace(self, name: tuple[bool, Hashable], lane: deque[Item]) -> None:
        if lane:
            self._lanes[name] = lane
        else:
            self._lanes.pop(name, None)


def _fullest_range(lengths: Sequence[int], anchor: int, budget: int, max_padding: float) -> tuple[int, int]:
    """Return the range [begin, end) of sorted lengths that contains `anchor`, keeps the limits and has most tokens."""
    sums = [0, *itertools.accumulate(lengths)]

    def padding(begin: int, end: int) -> float:
        return 1 - (sums[end] - sums[begin]) / (lengths[end - 1] * (end - begin))

    best = (anchor, anchor + 1)
    for end in range(anchor + 1, len(lengths) + 1):
        earliest = max(end - budget // lengths[end - 1], 0)
        if earliest > anchor:
            break
        # A later begin means less padding, so the first range within the limit has the most tokens.
        begins = range(earliest, anchor + 1)
        within = bisect.bisect_left(begins, -max_padding, key=lambda begin: -padding(begin, end))
        if within < len(begins) and sums[end] - sums[begins[within]] > sums[best[1]] - sums[best[0]]:
            best = (begins[within], end)
    return best
