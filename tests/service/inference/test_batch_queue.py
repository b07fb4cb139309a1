"""The queue of inputs against a model of it: nothing lost, doubled, over the budget or starved."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sparserve.service.inference.batch_queue import Batch, BatchQueue
from sparserve.service.inference.fair_order import OLDEST_EVERY, FairOrder
from sparserve.service.inference.latency_model import LatencyModel
from sparserve.service.inference.ticket import Ticket

BUDGET = 64
MAX_SECONDS = 2.0
MAX_PADDING = 0.25
LATENCIES = {"a": LatencyModel(), "b": LatencyModel(0.1, 0.05), "free": LatencyModel(0.1, 0.05)}


class QueueMachine(RuleBasedStateMachine):
    """Requests arrive, are cancelled and leave in batches while a fake clock advances."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BatchQueue(budget=BUDGET, max_seconds=MAX_SECONDS, max_padding=MAX_PADDING)
        self.now = 0.0
        self.waiting: dict[Ticket, set[int]] = {}
        self.oldest: Ticket | None = None
        self.batches_without_oldest = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 5.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        model=st.sampled_from(list(LATENCIES)),
        lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=6),
        patience=st.one_of(st.none(), st.sampled_from([0.0, 1.0, 6.0])),
        background=st.booleans(),
        client=st.sampled_from(["", "x", "y"]),
    )
    def a_request_comes(
        self, model: str, lengths: list[int], patience: float | None, background: bool, client: str
    ) -> None:
        deadline = None if patience is None else self.now + patience
        weight = 4.0 if client == "x" else 1.0
        ticket = Ticket(
            model, lengths, self.now, deadline, background, LATENCIES[model], client, weight, model != "free"
        )
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
        assert batch.cost_tokens == (batch.tokens if batch.model == "free" else batch.padded_tokens)
        assert batch.tokens >= (1 - MAX_PADDING) * batch.cost_tokens - 1e-9
        latency = LATENCIES[str(batch.model)]
        assert latency.seconds_per_token * batch.cost_tokens <= MAX_SECONDS + 1e-9 or len(batch.items) == 1
        end = self.now + latency.seconds(batch.cost_tokens)
        assert all(item.ticket.deadline is None or end <= item.ticket.deadline + 1e-9 for item in batch.items)
        behind = all(ticket.background for ticket in alive)
        assert all(item.ticket.background == behind for item in batch.items)
        self.the_oldest_is_not_starved(batch)
        for item in batch.items:
            assert item.ticket.model == batch.model
            assert item.length == item.ticket.lengths[item.position]
            self.waiting[item.ticket].remove(item.position)  # KeyError: it left before, or its request is gone
        # Who is too late and was in the way has been given up; others may still wait to be.
        self.waiting = {t: left for t, left in self.waiting.items() if left and not t.cancelled}

    def the_oldest_is_not_starved(self, batch: Batch) -> None:
        oldest = next((ticket for ticket in self.waiting if not ticket.background), None)
        if oldest is not self.oldest or any(item.ticket is oldest for item in batch.items):
            self.oldest, self.batches_without_oldest = oldest, 0
        elif oldest is not None:
            self.batches_without_oldest += 1
            assert self.batches_without_oldest < OLDEST_EVERY

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
        """Requests whose longest input would end before they stop waiting."""
        return {
            t: left
            for t, left in self.waiting.items()
            if not t.too_late(self.now, max(t.lengths[position] for position in left))
        }


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase


def lengths_of(queue: BatchQueue, now: float = 0.0) -> list[int]:
    batch = queue.take(now)
    assert batch is not None
    return [item.length for item in batch.items]


def test_batch_queue_batch_has_similar_lengths() -> None:
    queue = BatchQueue(budget=40)
    queue.add(Ticket("a", [10, 2, 11, 40, 9, 2, 8], 0.0))
    assert lengths_of(queue) == [40]
    assert lengths_of(queue) == [9, 10, 11]
    assert lengths_of(queue) == [2, 2, 8]
    assert queue.take(0.0) is None


def test_batch_queue_takes_fullest_range_around_turn() -> None:
    queue = BatchQueue(budget=40)
    queue.add(Ticket("a", [10], 0.0, client="x"))
    queue.add(Ticket("a", [11, 2, 9, 8], 0.0, client="y"))
    # [9, 10, 11] are 30 tokens, [8, 9, 10] only 27.
    assert lengths_of(queue) == [9, 10, 11]


def test_batch_queue_models_take_turns() -> None:
    queue = BatchQueue(budget=30)
    queue.add(Ticket("a", [30, 30], 0.0, client="x"))
    queue.add(Ticket("b", [5], 0.5, client="y"))
    queue.add(Ticket("a", [5], 1.0, client="x"))
    batches = [queue.take(2.0) for _ in range(4)]
    assert [batch.model for batch in batches if batch] == ["a", "b", "a", "a"]


def test_batch_queue_drops_expired_requests() -> None:
    queue = BatchQueue(budget=30)
    late = Ticket("a", [5, 5], 0.0, deadline=1.0)
    queue.add(late)
    queue.add(Ticket("a", [7], 0.5))
    assert lengths_of(queue, now=1.0) == [7]
    assert late.cancelled or queue.items == 0


@pytest.mark.parametrize("lengths", [[], [31], [5, 0]])
def test_batch_queue_refuses_impossible_lengths(lengths: list[int]) -> None:
    queue = BatchQueue(budget=30)
    with pytest.raises(ValueError, match="cannot run in batches of 30"):
        queue.add(Ticket("a", lengths, 0.0))
    assert queue.items == queue.tokens == 0


def test_batch_queue_limits_padding() -> None:
    queue = BatchQueue(budget=100, max_padding=0.125)
    queue.add(Ticket("m", [8, 30, 9, 9, 28], arrived=0.0))
    assert lengths_of(queue) == [28, 30]
    assert lengths_of(queue) == [8, 9, 9]


def test_batch_queue_ignores_padding_that_costs_nothing() -> None:
    queue = BatchQueue(budget=100, max_padding=0.125)
    for client, length in enumerate([8, 30, 9, 28, 7]):
        queue.add(Ticket("m", [length], arrived=0.0, client=str(client), padding_costs=False))
    assert lengths_of(queue) == [8, 9, 30], "in fair order, three times 30 tokens with padding"
    assert lengths_of(queue) == [7, 28]


def test_batch_queue_limits_time_without_padding() -> None:
    queue = BatchQueue(budget=1000, max_seconds=0.5)
    latency = LatencyModel(0.1, 0.01)
    for client, length in enumerate([10, 30, 10, 10]):
        queue.add(Ticket("m", [length], 0.0, latency=latency, client=str(client), padding_costs=False))
    assert lengths_of(queue) == [10, 10, 30]


def test_batch_queue_batch_meets_first_deadline() -> None:
    queue = BatchQueue(budget=100)
    latency = LatencyModel(seconds_per_token=0.01)
    queue.add(Ticket("m", [10], arrived=0.0, deadline=0.25, latency=latency))
    queue.add(Ticket("m", [10, 10, 10], arrived=0.0, latency=latency))
    assert lengths_of(queue) == [10, 10]


def test_batch_queue_skips_inputs_that_would_be_late() -> None:
    queue = BatchQueue(budget=100)
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
    queue = BatchQueue(budget=100)
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


def clients_of(batch: Batch | None) -> set[str]:
    return {item.ticket.client for item in batch.items} if batch else set()


@settings(deadline=None)
@given(
    flood=st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, BUDGET), min_size=1, max_size=40)),
        min_size=1,
        max_size=12,
    ),
    before=st.integers(0, 10),
    model=st.sampled_from("abc"),
    length=st.integers(1, BUDGET),
    one_client=st.booleans(),
)
def test_batch_queue_one_text_waits_for_one_batch_beside_flood(
    flood: list[tuple[str, list[int]]], before: int, model: str, length: int, one_client: bool
) -> None:
    queue = BatchQueue(budget=BUDGET, max_padding=MAX_PADDING)
    for of_model, lengths in flood[:1] if one_client else flood:
        queue.add(Ticket(of_model, lengths, 0.0, client="flood"))
    for _ in range(before):
        queue.take(0.0)
    single = Ticket(model, [length], 0.0, client="flood" if one_client else "single")
    queue.add(single)
    batches = [queue.take(0.0), queue.take(0.0)]
    assert any(item.ticket is single for batch in batches if batch for item in batch.items)


@settings(deadline=None, max_examples=50)
@given(
    weights=st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.5, 1.0, 3.0])),
    lengths=st.tuples(*[st.lists(st.integers(8, BUDGET), min_size=1, max_size=8)] * 2),
    requests=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    models=st.sampled_from(["aa", "ab"]),
)
def test_batch_queue_shares_by_weight(
    weights: tuple[float, float], lengths: tuple[list[int], list[int]], requests: tuple[int, int], models: str
) -> None:
    """Clients that always have inputs waiting get shares by weight, however many requests each of them sends."""
    queue = BatchQueue(budget=BUDGET, max_padding=MAX_PADDING)
    served = {"0": 0, "1": 0}
    waiting = {"0": 0, "1": 0}
    for _ in range(40):
        for number, client in enumerate(served):
            while waiting[client] < 8 * BUDGET:
                for _ in range(requests[number]):
                    ticket = Ticket(models[number], lengths[number], 0.0, client=client, weight=weights[number])
                    queue.add(ticket)
                    waiting[client] += sum(lengths[number])
        batch = queue.take(0.0)
        assert batch
        for item in batch.items:
            served[item.ticket.client] += item.length
            waiting[item.ticket.client] -= item.length
    lead = served["0"] / weights[0] - served["1"] / weights[1]
    assert abs(lead) <= 6 * BUDGET / min(weights)


def test_batch_queue_absent_client_gets_no_credit_and_keeps_debt() -> None:
    queue = BatchQueue(budget=10)
    for client in "xy":
        queue.add(Ticket("m", [10] * 4, 0.0, client=client))
    assert [clients_of(queue.take(0.0)) for _ in range(5)] == [{"x"}, {"y"}, {"x"}, {"y"}, {"x"}]
    queue.add(Ticket("m", [10] * 3, 0.0, client="z"))
    # The new client has no credit for the time before: it takes turns with the others.
    assert [clients_of(queue.take(0.0)) for _ in range(3)] == [{"y"}, {"z"}, {"x"}]


def test_batch_queue_estimates_tokens_before_a_request() -> None:
    queue = BatchQueue(budget=10)
    queue.add(Ticket("m", [10] * 20, 0.0, client="flood"))
    assert queue.tokens_before(Ticket("m", [10], 0.0, client="other")) == 20
    assert queue.tokens_before(Ticket("m", [10], 0.0, client="flood")) == 20
    assert queue.tokens_before(Ticket("m", [10], 0.0, client="other", weight=0.5)) == 30
    assert queue.tokens_before(Ticket("m", [10] * 30, 0.0, client="other")) == 500
    queue.take(0.0)
    assert queue.tokens_before(Ticket("m", [10], 0.0, client="other")) == 10


def test_batch_queue_estimates_that_a_short_text_waits_for_earlier_long_ones() -> None:
    queue = BatchQueue(budget=100)
    for _ in range(50):
        queue.add(Ticket("m", [90], 0.0))
    assert queue.tokens_before(Ticket("m", [10], 0.0)) == 50 * 90 + 10


def test_batch_queue_cancels_late_requests_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for, first = [], FairOrder.first

    def counted(order: FairOrder) -> Ticket:
        looked_for.append(order)
        return first(order)

    monkeypatch.setattr(FairOrder, "first", counted)
    queue = BatchQueue(budget=100)
    late = [Ticket("m", [10], 0.0, deadline=1.0) for _ in range(100)]
    for ticket in (*late, Ticket("m", [10], 0.0, deadline=9.0)):
        queue.add(ticket)
    assert lengths_of(queue, now=2.0) == [10]
    assert all(ticket.cancelled for ticket in late)
    assert len(looked_for) == 2
