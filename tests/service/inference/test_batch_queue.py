"""The queue of inputs against a model of it: nothing lost, doubled, over the budget or starved."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sparserve.service.inference.batch_queue import Batch, BatchQueue, Ticket
from sparserve.service.inference.latency_model import LatencyModel

BUDGET = 64
WINDOW = 3.0
MAX_SECONDS = 2.0
MAX_PADDING = 0.25
LATENCIES = {"a": LatencyModel(), "b": LatencyModel(0.1, 0.05)}


class QueueMachine(RuleBasedStateMachine):
    """Requests arrive, are cancelled and leave in batches while a fake clock advances."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BatchQueue(budget=BUDGET, window_seconds=WINDOW, max_seconds=MAX_SECONDS, max_padding=MAX_PADDING)
        self.now = 0.0
        self.waiting: dict[Ticket, set[int]] = {}

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 5.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        model=st.sampled_from("ab"),
        lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=6),
        patience=st.one_of(st.none(), st.sampled_from([0.0, 1.0, 6.0])),
        background=st.booleans(),
    )
    def a_request_comes(self, model: str, lengths: list[int], patience: float | None, background: bool) -> None:
        deadline = None if patience is None else self.now + patience
        ticket = Ticket(model, lengths, self.now, deadline, background, LATENCIES[model])
        self.queue.add(ticket)
        self.waiting[ticket] = set(range(len(lengths)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_request_is_cancelled(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(list(self.waiting)))
        self.queue.cancel(ticket)
        self.queue.cancel(ticket)  # twice is the same as once
        del self.waiting[ticket]

    @rule()
    def a_batch_leaves(self) -> None:
        alive = self.in_time()
        batch = self.queue.take(self.now)
        if batch is None:
            assert not alive
            self.waiting = {}
            return
        if not alive:
            self.the_last_one_is_tried(batch)
            return
        longest = max(item.length for item in batch.items)
        assert batch.padded_tokens == longest * len(batch.items) <= BUDGET
        assert batch.tokens == sum(item.length for item in batch.items)
        assert batch.tokens >= (1 - MAX_PADDING) * batch.padded_tokens - 1e-9
        latency = LATENCIES[str(batch.model)]
        assert latency.seconds_per_token * batch.padded_tokens <= MAX_SECONDS + 1e-9 or len(batch.items) == 1
        end = self.now + latency.seconds(batch.padded_tokens)
        assert all(item.ticket.deadline is None or end <= item.ticket.deadline + 1e-9 for item in batch.items)
        behind = all(ticket.background for ticket in alive)
        assert all(item.ticket.background == behind for item in batch.items)
        oldest = min(ticket.arrived for ticket in alive if ticket.background == behind)
        arrivals = [item.ticket.arrived for item in batch.items]
        assert min(arrivals) == oldest
        assert max(arrivals) <= oldest + WINDOW
        for item in batch.items:
            assert item.ticket.model == batch.model
            assert item.length == item.ticket.lengths[item.position]
            self.waiting[item.ticket].remove(item.position)  # KeyError: it left before, or its request is gone
        # Who is too late and was in the way has been given up; others may still wait to be.
        self.waiting = {t: left for t, left in self.waiting.items() if left and not t.cancelled}

    def the_last_one_is_tried(self, batch: Batch) -> None:
        """Nothing would end in time as the models say, so all are given up but one, in case that they are wrong."""
        (ticket,) = {item.ticket for item in batch.items}
        assert not ticket.expired(self.now) and not ticket.cancelled
        for item in batch.items:
            self.waiting[ticket].remove(item.position)
        assert all(other.cancelled for other in self.waiting if other is not ticket)
        self.waiting = {t: left for t, left in self.waiting.items() if left and t is ticket}

    @invariant()
    def what_waits_is_counted(self) -> None:
        front = {ticket: left for ticket, left in self.waiting.items() if not ticket.background}
        assert self.queue.items == sum(map(len, front.values()))
        assert self.queue.tokens == sum(t.lengths[place] for t, left in front.items() for place in left)
        assert self.queue.background_items == sum(map(len, self.waiting.values())) - self.queue.items

    def teardown(self) -> None:
        while (batch := self.queue.take(self.now)) is not None:
            for item in batch.items:
                self.waiting[item.ticket].remove(item.position)
        self.waiting = {t: left for t, left in self.waiting.items() if left and not t.cancelled}
        assert not self.in_time()

    def in_time(self) -> dict[Ticket, set[int]]:
        """Requests whose next input would end before they stop waiting."""
        return {t: left for t, left in self.waiting.items() if not t.too_late(self.now, t.lengths[min(left)])}


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase


def lengths_of(queue: BatchQueue, now: float = 0.0) -> list[int]:
    batch = queue.take(now)
    assert batch is not None
    return [item.length for item in batch.items]


def test_batch_queue_batch_has_similar_lengths() -> None:
    queue = BatchQueue(budget=40, window_seconds=1.0)
    queue.add(Ticket("a", [10, 2, 11, 40, 9, 2, 8], 0.0))
    # With the first: [9, 10, 11] are 30 tokens, [2, 8, 9, 10] only 29.
    assert lengths_of(queue) == [9, 10, 11]
    assert lengths_of(queue) == [2, 2, 8]
    assert lengths_of(queue) == [40]
    assert queue.take(0.0) is None


def test_batch_queue_window_limits_overtaking() -> None:
    queue = BatchQueue(budget=30, window_seconds=1.0)
    queue.add(Ticket("a", [10], 0.0))
    queue.add(Ticket("a", [10, 10], 1.5))
    assert lengths_of(queue) == [10]
    assert lengths_of(queue) == [10, 10]


def test_batch_queue_oldest_model_first() -> None:
    queue = BatchQueue(budget=30, window_seconds=1.0)
    queue.add(Ticket("a", [30, 30], 0.0))
    queue.add(Ticket("b", [5], 0.5))
    queue.add(Ticket("a", [5], 1.0))
    batches = [queue.take(2.0) for _ in range(4)]
    assert [batch.model for batch in batches if batch] == ["a", "a", "b", "a"]


def test_batch_queue_drops_expired_requests() -> None:
    queue = BatchQueue(budget=30, window_seconds=1.0)
    late = Ticket("a", [5, 5], 0.0, deadline=1.0)
    queue.add(late)
    queue.add(Ticket("a", [7], 0.5))
    assert lengths_of(queue, now=1.0) == [7]
    assert late.cancelled or queue.items == 0


@pytest.mark.parametrize("lengths", [[], [31], [5, 0]])
def test_batch_queue_refuses_impossible_lengths(lengths: list[int]) -> None:
    queue = BatchQueue(budget=30, window_seconds=1.0)
    with pytest.raises(ValueError, match="cannot run in batches of 30"):
        queue.add(Ticket("a", lengths, 0.0))
    assert queue.items == queue.tokens == 0


def test_batch_queue_limits_padding() -> None:
    queue = BatchQueue(budget=100, window_seconds=1.0, max_padding=0.125)
    queue.add(Ticket("m", [8, 30, 9, 9, 28], arrived=0.0))
    assert lengths_of(queue) == [8, 9, 9]
    assert lengths_of(queue) == [28, 30]


def test_batch_queue_batch_meets_first_deadline() -> None:
    queue = BatchQueue(budget=100, window_seconds=1.0)
    latency = LatencyModel(seconds_per_token=0.01)
    queue.add(Ticket("m", [10], arrived=0.0, deadline=0.25, latency=latency))
    queue.add(Ticket("m", [10, 10, 10], arrived=0.0, latency=latency))
    assert lengths_of(queue) == [10, 10]


def test_batch_queue_skips_inputs_that_would_be_late() -> None:
    queue = BatchQueue(budget=100, window_seconds=1.0)
    latency = LatencyModel(seconds_per_token=0.01)
    late, other = (
        Ticket("m", [30], arrived=0.0, deadline=0.25, latency=latency),
        Ticket("m", [20], arrived=0.1, latency=latency),
    )
    queue.add(late)
    queue.add(other)
    assert lengths_of(queue, now=0.1) == [20]
    assert late.cancelled


def test_batch_queue_runs_last_request_despite_prediction() -> None:
    queue = BatchQueue(budget=100, window_seconds=1.0)
    latency = LatencyModel(seconds_per_token=1.0)
    tried, late = (
        Ticket("m", [10, 10], 0.2, deadline=0.4, latency=latency),
        Ticket("m", [10], 0.0, deadline=0.25, latency=latency),
    )
    queue.add(late)
    queue.add(tried)
    assert lengths_of(queue, now=0.1) == [10]
    assert late.cancelled
    assert lengths_of(queue, now=0.3) == [10]
    assert queue.take(0.3) is None
    queue.add(Ticket("m", [10], 0.3, deadline=0.4, latency=latency))
    assert queue.take(0.4) is None
