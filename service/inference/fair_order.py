"""Fair order of waiting requests: clients share the machine by weight, and the requests of a client share equally.

This is start-time fair queueing (Goyal, Vin, Cheng 1996) on two levels. Every client has a virtual start time, which
advances by tokens / weight with each of its inputs that runs; the client with the smallest one is next. A client that
had nothing waiting starts at the smallest one of the waiting clients, so that it is next soon but gets no credit for
its absence. Within a client, its requests are ordered in the same way.
"""

import heapq
import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, NamedTuple

from sparserve.service.inference.ticket import Item, Ticket

# One batch in this many begins with the request that has waited longest. New clients come before old ones that have
# had their share; without this, an endless series of new clients would hold up an old one for as long as it lasts.
OLDEST_EVERY: Final = 8
# Clients without waiting inputs whose virtual start times are remembered.
MAX_ABSENT_CLIENTS: Final = 10_000

_by_length = attrgetter("length")
_by_virtual_start = attrgetter("virtual_start")


class Holding(NamedTuple):
    """Waiting inputs and tokens of one of `clients`."""

    items: int
    tokens: int
    clients: int


@dataclass(eq=False, slots=True)
class _Client:
    """A client with waiting requests; new requests begin at `clock`."""

    virtual_start: float
    weight: float = 1.0
    clock: float = 0.0
    items: int = 0
    tokens: int = 0
    tickets: dict[Ticket, None] = field(default_factory=dict)

    def charge(self, items: int, tokens: int) -> None:
        self.items -= items
        self.tokens -= tokens
        self.virtual_start += tokens / self.weight


class FairOrder:
    """Waiting requests, and the number of their `items` and `tokens`."""

    def __init__(self) -> None:
        self.items = 0
        self.tokens = 0
        self._tickets: dict[Ticket, None] = {}  # by arrival
        self._lanes: dict[Hashable, dict[_Client, dict[Ticket, None]]] = {}  # by model and client
        self._clients: dict[str, _Client] = {}
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._clock = 0.0
        self._batches = 0

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Add a request."""
        client = self._clients.get(ticket.client)
        if client is None:
            start = max(self._absent.pop(ticket.client, 0.0), self._clock)
            client = self._clients[ticket.client] = _Client(start)
        client.weight = ticket.weight
        tokens = sum(ticket.lengths)
        client.items += len(ticket.lengths)
        client.tokens += tokens
        self.tokens += tokens
        self.items += len(ticket.lengths)
        ticket.virtual_start = client.clock
        self._tickets[ticket] = client.tickets[ticket] = None
        self._lanes.setdefault(ticket.model, {}).setdefault(client, {})[ticket] = None

    def remove(self, ticket: Ticket) -> None:
        """Remove a request with all inputs that still wait."""
        tokens = sum(map(_by_length, ticket.waiting))
        client = self._clients[ticket.client]
        client.items -= len(ticket.waiting)
        client.tokens -= tokens
        self.tokens -= tokens
        self.items -= len(ticket.waiting)
        ticket.waiting = []
        self._leave(ticket)

    def tickets(self) -> list[Ticket]:
        """Return all requests, by arrival."""
        return list(self._tickets)

    def first(self) -> Ticket:
        """Return the request whose turn it is."""
        if self._batches % OLDEST_EVERY == OLDEST_EVERY - 1:
            return next(iter(self._tickets))
        client = min(self._clients.values(), key=_by_virtual_start)
        return min(client.tickets, key=_by_virtual_start)

    def offers(self, model: Hashable, length: int, usable: Callable[[Ticket], bool]) -> Iterator[Item]:
        """Return the waiting inputs of the model's `usable` requests in fair order.

        A request offers first those of its inputs whose lengths are nearest to `length`: it is answered with its last
        input, so their order matters to nobody else.
        """
        lane = self._lanes[model]
        if len(lane) == 1:
            (tickets,) = lane.values()
            return _offers(tickets, length, usable)
        clients = sorted(lane, key=_by_virtual_start)
        return _merge(
            (client.virtual_start, client.weight, _offers(lane[client], length, usable)) for client in clients
        )

    def take(self, batch: Mapping[Ticket, Sequence[int]]) -> None:
        """Remove the inputs of a batch, given by their positions, and charge their clients and requests for them."""
        self._batches += 1
        self._clock = max(self._clock, min(map(_by_virtual_start, self._clients.values())))
        clocks: dict[str, float] = {}
        for ticket, positions in batch.items():
            clocks[ticket.client] = min(clocks.get(ticket.client, math.inf), ticket.virtual_start)
            ticket.take(positions)
        for name, clock in clocks.items():
            client = self._clients[name]
            client.clock = max(client.clock, clock)
        for ticket, positions in batch.items():
            tokens = sum([ticket.lengths[position] for position in positions])
            ticket.virtual_start += tokens
            client = self._clients[ticket.client]
            client.charge(len(positions), tokens)
            self.tokens -= tokens
            self.items -= len(positions)
            if not ticket.waiting:
                self._leave(ticket)

    def holding(self, client: str) -> Holding:
        """Return what waits of a client, and the number of clients, this one included."""
        if client in self._clients:
            return Holding(self._clients[client].items, self._clients[client].tokens, len(self._clients))
        return Holding(0, 0, len(self._clients) + 1)

    def tokens_before(self, ticket: Ticket) -> int:
        """Estimate the tokens that run before the last input of a request that would be added now, itself included.

        Each other request of its client has its turn meanwhile: as many tokens as this one has, and at least one input.
        """
        tokens = sum(ticket.lengths)
        client = self._clients.get(ticket.client)
        start, own = self._clock, float(tokens)
        if client is None:
            start = max(self._absent.get(ticket.client, 0.0), start)
        else:
            start = client.virtual_start
            own += min(client.tokens, len(client.tickets) * max(tokens, client.tokens / client.items))
        end = start + own / ticket.weight
        others = (
            min(other.tokens, max(end - other.virtual_start, 0.0) * other.weight)
            for name, other in self._clients.items()
            if name != ticket.client
        )
        return int(own + sum(others))

    def _leave(self, ticket: Ticket) -> None:
        """Forget a request; a client that leaves with it is remembered until its share is even."""
        del self._tickets[ticket]
        client = self._clients[ticket.client]
        del client.tickets[ticket]
        lane = self._lanes[ticket.model]
        del lane[client][ticket]
        if not lane[client]:
            del lane[client]
            if not lane:
                del self._lanes[ticket.model]
        if not client.tickets:
            del self._clients[ticket.client]
            self._absent[ticket.client] = client.virtual_start
            if len(self._absent) > MAX_ABSENT_CLIENTS:
                self._absent.popitem(last=False)
        if not self._tickets:
            self._absent.clear()


def _offers(tickets: Iterable[Ticket], length: int, usable: Callable[[Ticket], bool]) -> Iterator[Item]:
    """Return the inputs of a client's requests in fair order."""
    alive = [ticket for ticket in tickets if ticket.deadline is None or usable(ticket)]
    if len(alive) == 1:
        return _nearest(alive[0].waiting, length)
    alive.sort(key=_by_virtual_start)
    waiting = [ticket.waiting for ticket in alive]
    if len(alive) == sum(map(len, waiting)):
        return iter([items[0] for items in waiting])
    return _merge((ticket.virtual_start, 1.0, _nearest(ticket.waiting, length)) for ticket in alive)


def _merge(flows: Iterable[tuple[float, float, Iterator[Item]]]) -> Iterator[Item]:
    """Merge flows of inputs.

    Each flow has the virtual start time of its first input, by which the flows are sorted, and its weight.
    """
    begun: list[tuple[float, int, float, Iterator[Item]]] = []
    for order, (start, weight, items) in enumerate(flows):
        while begun and begun[0][0] < start:
            yield from _advance(begun)
        for item in items:
            heapq.heappush(begun, (start + item.length / weight, order, weight, items))
            yield item
            break
    while begun:
        yield from _advance(begun)


def _advance(begun: list[tuple[float, int, float, Iterator[Item]]]) -> tuple[Item, ...]:
    """Return the next input of the flow that is behind the others, or drop the flow at its end."""
    start, order, weight, items = begun[0]
    for item in items:
        heapq.heapreplace(begun, (start + item.length / weight, order, weight, items))
        return (item,)
    heapq.heappop(begun)
    return ()


def _nearest(items: Sequence[Item], length: int) -> Iterator[Item]:
    """Return inputs, which are sorted by length, from the nearest to `length` to the farthest."""
    if items[-1].length <= length or len(items) == 1:
        return reversed(items)
    return _outwards(items, bisect_left(items, length, key=_by_length), length)


def _outwards(items: Sequence[Item], above: int, length: int) -> Iterator[Item]:
    below = above - 1
    while below >= 0 or above < len(items):
        if below < 0 or (above < len(items) and items[above].length - length <= length - items[below].length):
            yield items[above]
            above += 1
        else:
            yield items[below]
            below -= 1
