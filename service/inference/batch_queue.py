"""Bounded queue of tokenised inputs, grouped into batches of similar lengths, fair between clients and requests.

The queue does not wait, run models or read a clock; `batcher` does. Invariants, for any sequence of calls:

- every input leaves the queue exactly once, in a batch or cancelled;
- no batch exceeds the budget;
- a batch contains an input of the request whose turn it is in `FairOrder`, and fills up with the inputs that follow in
  that order; with those of similar lengths among them if padding costs time;
- one batch in `OLDEST_EVERY` contains an input of the request that has waited longest, so only background inputs can
  starve.
"""

import bisect
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Final

from sparserve.service.inference.fair_order import FairOrder, Holding
from sparserve.service.inference.ticket import Item, Ticket

# Inputs considered for a batch at first: the next ones in fair order, of this many times its tokens.
CANDIDATES: Final = 4

_by_length: Final = attrgetter("length")


@dataclass(frozen=True)
class Batch:
    """Inputs of one model that run together, sorted by length."""

    model: Hashable
    items: list[Item]

    @cached_property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return sum(map(_by_length, self.items))

    @property
    def padded_tokens(self) -> int:
        """Number of tokens after padding to the longest input."""
        return len(self.items) * self.items[-1].length

    @property
    def cost_tokens(self) -> int:
        """Number of tokens that take time."""
        return self.padded_tokens if self.items[0].ticket.padding_costs else self.tokens

    @cached_property
    def positions(self) -> dict[Ticket, list[int]]:
        """Positions of the inputs of each request, in the order of `items`."""
        positions: dict[Ticket, list[int]] = {}
        for ticket, position, _ in self.items:
            positions.setdefault(ticket, []).append(position)
        return positions


class BatchQueue:
    """Waiting inputs in fair order; `front` has those that are not in the background.

    Args:
        budget: maximum tokens of a batch, padding included.
        max_seconds: maximum predicted time of a batch, apart from the fixed time; a longer input runs alone.
        max_padding: maximum fraction of a batch that is padding. On a CPU a batch takes about as long as its inputs
            one after the other, so the cost of padding soon exceeds the gain of a larger batch. It holds for models
            whose padding costs time.
    """

    def __init__(self, *, budget: int, max_seconds: float = math.inf, max_padding: float = 1.0) -> None:
        self.budget = budget
        self.max_seconds = max_seconds
        self.max_padding = max_padding
        self.front = FairOrder()
        self._background = FairOrder()

    @property
    def items(self) -> int:
        """Waiting inputs, those in the background not counted."""
        return self.front.items

    @property
    def tokens(self) -> int:
        """Tokens of these inputs."""
        return self.front.tokens

    @property
    def background_items(self) -> int:
        """Waiting inputs in the background."""
        return self._background.items

    def add(self, ticket: Ticket) -> None:
        """Add all inputs of a request.

        Raises:
            ValueError: an input is empty or over the budget of a batch, or there is no input.
        """
        lengths = ticket.lengths
        if not lengths or min(lengths) < 1 or max(lengths) > self.budget:
            raise ValueError(f"inputs of {list(ticket.lengths)} tokens cannot run in batches of {self.budget}")
        ticket.enter()
        self._order(ticket).add(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Remove the waiting inputs of a request; inputs already in a batch are not affected."""
        if ticket.cancelled:
            return
        ticket.cancelled = True
        if ticket.waiting:
            self._order(ticket).remove(ticket)

    def next_seconds(self, now: float, *, whole: bool = False) -> float:
        """Predict the time of the first input of the next batch, or of its `whole` request.

        It is 0 if it is unknown, if only background inputs wait, or if the request would be too late: `take` then
        cancels it and returns another one.
        """
        if not self.front.items:
            return 0.0
        ticket = self.front.first()
        if self._is_late(ticket, now):
            return 0.0
        tokens = sum(map(_by_length, ticket.waiting)) if whole else ticket.waiting[-1].length
        return ticket.latency.seconds(tokens)

    def take(self, now: float, max_seconds: float = math.inf) -> Batch | None:
        """Remove and return the next batch, or None if nothing waits. Requests that would be too late are cancelled.

        The batch contains the longest input of the request whose turn it is. Where padding costs time, it takes the
        nearest lengths, of the inputs that are next in fair order, that fill the budget with the most tokens; else the
        next inputs, whatever their lengths. According to the latency model
        it ends before the deadline of every input in it, and takes at most `max_seconds`, unless its first input alone
        takes longer. The last waiting request runs in any case until its deadline: only another batch can correct a
        latency model that is wrong.
        """
        while order := self.front if self.front.items else self._background:
            ticket = order.first()
            if self._is_late(ticket, now):
                self._cancel_late(order, now)
                continue
            batch = Batch(ticket.model, self._choose(order, ticket.waiting[-1], now, max_seconds))
            order.take(batch.positions)
            return batch
        return None

    def holding(self, client: str) -> Holding:
        """Return what waits of a client, its background inputs not counted, and the number of clients."""
        return self.front.holding(client)

    def tokens_before(self, ticket: Ticket) -> int:
        """Estimate the tokens that run before the last input of a request that would be added now, itself included."""
        return self._order(ticket).tokens_before(ticket)

    def _cancel_late(self, order: FairOrder, now: float) -> None:
        """Cancel every request that would be too late if it ran now, except the last one until its deadline.

        All at once: to find and cancel one after the other takes time that grows with the square of their number.
        """
        for ticket in order.tickets():
            if self._is_late(ticket, now):
                self.cancel(ticket)

    def _order(self, ticket: Ticket) -> FairOrder:
        return self._background if ticket.background else self.front

    def _is_late(self, ticket: Ticket, now: float) -> bool:
        """Return True for a request that would be too late if it ran now, but for the last one only at its deadline."""
        return ticket.too_late(now, ticket.waiting[-1].length) and (ticket.expired(now) or not self._is_last(ticket))

    def _is_last(self, ticket: Ticket) -> bool:
        return len(ticket.waiting) == self.items + self.background_items

    def _choose(self, order: FairOrder, first: Item, now: float, max_seconds: float) -> list[Item]:
        """Return the inputs of the next batch, sorted by length.

        The inputs that are next in fair order are considered. Those far back in it only get room that would remain
        empty: they are considered if the batch would be less than half full without them.
        """
        ticket, budget = first.ticket, self._affordable(first, now, max_seconds)
        goal = CANDIDATES * budget

        def in_time(other: Ticket) -> bool:
            return not other.too_late(now, budget)

        offers = order.offers(ticket.model, first.length, in_time)
        if not ticket.padding_costs:
            return self._next_in_order(offers, first, budget)
        candidates, tokens = [first], first.length
        while True:
            for item in offers:
                if item is not first:
                    candidates.append(item)
                    tokens += item.length
                    if tokens >= goal:
                        break
            candidates.sort(key=_by_length)
            lengths = list(map(_by_length, candidates))
            anchor = bisect.bisect_left(lengths, first.length)  # sorting has kept it before others of its length
            begin, end = _fullest_range(lengths, anchor, budget, self.max_padding)
            if tokens < goal or (end - begin) * lengths[end - 1] > budget / 2:
                return candidates[begin:end]
            goal *= CANDIDATES

    def _next_in_order(self, offers: Iterable[Item], first: Item, tokens: int) -> list[Item]:
        """Return as many inputs in fair order as have so many tokens without padding and keep the budget with it."""
        items, left, longest = [first], tokens - first.length, first.length
        for item in offers:
            if item is first:
                continue
            left, longest = left - item.length, max(longest, item.length)
            if left < 0 or (len(items) + 1) * longest > self.budget:
                break
            items.append(item)
        return sorted(items, key=_by_length)

    def _affordable(self, first: Item, now: float, max_seconds: float) -> int:
        """Return the budget, or less if it would take too long or miss the deadline of the first input."""
        deadline, latency = first.ticket.deadline, first.ticket.latency
        seconds = min(self.max_seconds + latency.fixed_seconds, max_seconds)
        if deadline is not None:
            seconds = min(seconds, deadline - now)
        if seconds >= latency.seconds(self.budget):
            return self.budget
        return max(int(latency.tokens(seconds)), first.length)


def _fullest_range(lengths: Sequence[int], anchor: int, budget: int, max_padding: float) -> tuple[int, int]:
    """Return the range [begin, end) of sorted lengths that contains `anchor`, keeps the limits and has most tokens."""
    sums = [0, *itertools.accumulate(lengths)]
    best, most = (anchor, anchor + 1), lengths[anchor]
    for end in range(anchor + 1, len(lengths) + 1):
        longest = lengths[end - 1]
        earliest = max(end - budget // longest, 0)
        if earliest > anchor:
            break
        if sums[end] - sums[earliest] <= most:
            continue
        # A later begin means less padding, so the first range within the limit has the most tokens.
        least = (1 - max_padding) * longest

        def within(begin: int, end: int = end, least: float = least) -> bool:
            return sums[end] - sums[begin] >= least * (end - begin)

        begins = range(earliest, anchor + 1)
        begin = earliest + bisect.bisect_left(begins, True, key=within)
        if begin <= anchor and sums[end] - sums[begin] > most:
            best, most = (begin, end), sums[end] - sums[begin]
    return best
