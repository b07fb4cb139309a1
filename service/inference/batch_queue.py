"""Which inputs run together: tokenised inputs wait by model, and leave in batches of similar lengths.

Nothing here waits, runs or looks at a clock: `batcher` does. What is promised, whatever is added, given up or taken:
every input that was added leaves once or was given up; no batch is over the budget; the input that has waited longest
is in the next batch, so that none starves but those in the background.
"""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from sparserve.service.inference.latency_model import Pace

# Inputs that are looked at for one batch: far more than a batch holds, and sorted in well under a millisecond.
LOOKAHEAD: Final = 1024


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place in the queue: `lengths` are the tokens of its inputs, `model` says which can run together.

    A `background` one runs only when no other waits. `pace` says how long its inputs take, at least.
    """

    model: Hashable
    lengths: Sequence[int]
    arrived: float
    deadline: float | None = None
    background: bool = False
    pace: Pace = field(default_factory=Pace)
    waiting: int = field(init=False)
    given_up: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.waiting = len(self.lengths)

    def expired(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return self.deadline is not None and now >= self.deadline

    def too_late(self, now: float, tokens: int) -> bool:
        """Whether a batch of so many tokens that begins now would end when nobody waits for it any more."""
        return self.deadline is not None and now + self.pace.seconds(tokens) >= self.deadline


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a request: the `position`-th, of `length` tokens."""

    ticket: Ticket
    position: int
    length: int


@dataclass(frozen=True)
class Batch:
    """Inputs of one model that run together, the shortest first."""

    model: Hashable
    items: list[Item]

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(item.length for item in self.items)

    @property
    def padded_tokens(self) -> int:
        """Tokens once every input is as long as the longest."""
        return len(self.items) * self.items[-1].length


class BatchQueue:
    """Inputs that wait, in order of arrival within each model; `items` and `tokens` count those not in the background.

    Args:
        budget: tokens of a batch, padding included.
        max_seconds: of a batch's tokens, as fast as its model has run so far; an input that takes longer runs alone.
        max_padding: the share of a batch that may be padding. On a CPU a batch takes about as long as its inputs one
            after the other: what padding costs, and waiting for a long batch, is soon more than what a batch saves.
        window_seconds: an input may run before one of its model that arrived up to so much earlier, if its length
            suits the batch better, and before none that arrived earlier still.
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
        """Let all inputs of a request wait.

        Raises:
            ValueError: one of them is over the budget of a batch or empty, or the request has none.
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

    def give_up(self, ticket: Ticket) -> None:
        """Forget the inputs of a request that still wait; those that were taken are not called back."""
        if ticket.given_up:
            return
        ticket.given_up = True
        lane = self._lanes.get((ticket.background, ticket.model))
        if ticket.waiting and lane is not None:
            gone = [item for item in lane if item.ticket is ticket]
            self._left(gone)
            kept = deque(item for item in lane if item.ticket is not ticket)
            self._replace((ticket.background, ticket.model), kept)

    def take(self, now: float) -> Batch | None:
        """The next batch, None if nothing waits; requests that it would be too late for are given up first.

        It is of the model whose input has waited longest, holds that input, and of the others in its window those
        whose lengths are nearest and fill the budget with most tokens. It ends before anybody in it stops waiting, as
        far as the model's pace tells: the last request that waits is run in any case until its deadline, for a pace
        that was wrong is put right by a batch, and by nothing else.
        """
        while self._lanes:
            name = min(self._lanes, key=lambda name: (name[0], self._lanes[name][0].ticket.arrived))
            first = self._lanes[name][0]
            ticket = first.ticket
            if not ticket.too_late(now, first.length) or (self._alone(ticket) and not ticket.expired(now)):
                return self._batch(name, first, now)
            self.give_up(ticket)
        return None

    def _alone(self, ticket: Ticket) -> bool:
        return ticket.waiting == self.items + self.background_items

    def _batch(self, name: tuple[bool, Hashable], first: Item, now: float) -> Batch:
        lane = self._lanes[name]
        latest = first.ticket.arrived + self.window_seconds
        budget = self._affordable(first, now)
        near = []
        for item in itertools.islice(lane, LOOKAHEAD):
            if item.ticket.arrived > latest:
                break
            if item is first or not item.ticket.too_late(now, budget):
                near.append(item)
        near.sort(key=attrgetter("length"))
        begin, end = _fullest([item.length for item in near], near.index(first), budget, self.max_padding)
        chosen = near[begin:end]
        taken = set(map(id, chosen))
        self._left(chosen)
        self._replace(name, deque(item for item in lane if id(item) not in taken))
        return Batch(first.ticket.model, chosen)

    def _affordable(self, first: Item, now: float) -> int:
        """The budget, or less: what can run in time, and before the client of the first input stops waiting."""
        deadline, pace = first.ticket.deadline, first.ticket.pace
        seconds = self.max_seconds + pace.fixed
        if deadline is not None:
            seconds = min(seconds, deadline - now)
        if seconds >= pace.seconds(self.budget):
            return self.budget
        return max(int(pace.tokens(seconds)), first.length)

    def _left(self, items: Sequence[Item]) -> None:
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


def _fullest(lengths: Sequence[int], anchor: int, budget: int, max_padding: float) -> tuple[int, int]:
    """The run [begin, end) of sorted lengths that holds `anchor` and keeps within both limits with most tokens."""
    sums = [0, *itertools.accumulate(lengths)]

    def padding(begin: int, end: int) -> float:
        return 1 - (sums[end] - sums[begin]) / (lengths[end - 1] * (end - begin))

    best = (anchor, anchor + 1)
    for end in range(anchor + 1, len(lengths) + 1):
        earliest = max(end - budget // lengths[end - 1], 0)
        if earliest > anchor:
            break
        # The later a run begins the less of it is padding, so the first that has little enough has most tokens.
        begins = range(earliest, anchor + 1)
        within = bisect.bisect_left(begins, -max_padding, key=lambda begin: -padding(begin, end))
        if within < len(begins) and sums[end] - sums[begins[within]] > sums[best[1]] - sums[best[0]]:
            best = (begins[within], end)
    return best
