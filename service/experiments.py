"""Two variants on a task's live traffic: a candidate beside the default variant, in its shadow or for a share of it.

`shadow`: the default answers, and for a share of the requests the candidate runs aside, in the background of the queue.
`split`: the candidate answers a share of the requests, the same ones for the same routing key, and the default runs
aside. Either way both variants' answers to the same inputs are compared. Requests that name a variant take no part.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np

from models.runtime import Tokens
from service.agreement import Agreement, agreeing
from service.batcher import Batcher
from service.catalog import Catalog
from service.classification import Classification, classify
from service.disagreements import Disagreement, Disagreements
from service.engine import Engine, Logits, scores
from service.errors import InvalidRequest, ServiceError
from service.metrics import Metrics
from service.policy import Policy
from service.schemas import TextInput

logger = logging.getLogger("service.experiments")

# Requests that may run aside at a time: more are answered all the same, but not compared.
ASIDE: Final = 64
# Seconds after which a comparison is given up: it waits for idle moments only.
PATIENCE: Final = 10.0


@dataclass
class Experiment:
    """A policy and what has been seen under it; `stopped` says why the guard has ended it."""

    policy: Policy
    since: datetime
    agreement: Agreement = field(default_factory=Agreement)
    not_compared: int = 0
    stopped: str | None = None


@dataclass(frozen=True)
class Route:
    """Who answers a request, and who runs aside."""

    engine: Engine
    aside: Engine | None = None


class Experiments:
    """The experiments of all tasks; all of it happens on the event loop."""

    def __init__(
        self,
        policies: dict[str, Policy],
        *,
        catalog: Catalog,
        batcher: Batcher,
        disagreements: Disagreements,
        keep_texts: bool,
        metrics: Metrics,
    ) -> None:
        self._catalog = catalog
        self._batcher = batcher
        self._disagreements = disagreements
        self._keep_texts = keep_texts
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self.experiments = {task: Experiment(policy, datetime.now(UTC)) for task, policy in policies.items()}

    def begin(self, task: str, policy: Policy) -> Experiment:
        """Begin an experiment in the place of the task's present one; its figures begin anew.

        Raises:
            UnknownResource: there is no such task or variant.
            Unavailable: the candidate does not serve.
            InvalidRequest: the candidate is the default variant, or has other labels.
        """
        reference, candidate = self._catalog.engine(task), self._catalog.engine(task, policy.candidate)
        if candidate is reference:
            raise InvalidRequest(f"candidate: {policy.candidate} is the default variant of {task}: name another one")
        if set(candidate.manifest.labels) != set(reference.manifest.labels):
            raise InvalidRequest(f"candidate: {policy.candidate} has other labels than {reference.manifest.variant}")
        found = self.experiments[task] = Experiment(policy, datetime.now(UTC))
        logger.info("%s: %s of %s for %.4g of the requests", task, policy.mode, policy.candidate, policy.share)
        return found

    def end(self, task: str) -> Experiment | None:
        """End a task's experiment; None if there is none."""
        return self.experiments.pop(task, None)

    def route(self, task: str, key: str | None) -> Route:
        """Who answers a request that names no variant; requests with the same `key` are answered by the same one.

        Raises:
            UnknownResource, Unavailable: as `Catalog.engine` does for the default variant.
        """
        default = self._catalog.engine(task)
        experiment = self.experiments.get(task)
        if experiment is None or experiment.stopped or _place(task, key) >= experiment.policy.share:
            return Route(default)
        try:
            candidate = self._catalog.engine(task, experiment.policy.candidate)
        except ServiceError:  # it has gone, or was never there: the default answers as if nothing was asked
            return Route(default)
        if candidate is default or set(candidate.manifest.labels) != set(default.manifest.labels):
            return Route(default)
        return Route(candidate, default) if experiment.policy.mode == "split" else Route(default, candidate)

    def compare(
        self, task: str, route: Route, inputs: Sequence[TextInput], answered: Classification, request_id: str | None
    ) -> None:
        """Run the other variant aside, on the tokens of the answer that was given, and take both in."""
        experiment = self.experiments.get(task)
        if route.aside is None or experiment is None:
            return
        if len(self._running) >= ASIDE:
            self._not_compared(task, experiment)
            return
        work = self._compare(task, experiment, route, inputs, answered, request_id)
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def settled(self) -> None:
        """Wait until nothing runs aside."""
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Give up what runs aside."""
        for running in self._running:
            running.cancel()

    async def _compare(
        self,
        task: str,
        experiment: Experiment,
        route: Route,
        inputs: Sequence[TextInput],
        answered: Classification,
        request_id: str | None,
    ) -> None:
        assert route.aside is not None
        same = route.aside.tokenization == route.engine.tokenization
        tokens: list[Tokens] | None = answered.tokens if same else None
        try:
            deadline = time.perf_counter() + PATIENCE
            other = await classify(
                self._batcher, route.aside, inputs, truncate=True, deadline=deadline, tokens=tokens, background=True
            )
        except ServiceError:
            self._not_compared(task, experiment)
            return
        if route.engine.manifest.variant == experiment.policy.candidate:
            reference, candidate, given, tried = route.aside, route.engine, other, answered
        else:
            reference, candidate, given, tried = route.engine, route.aside, answered, other
        labels = reference.manifest.labels
        columns = [candidate.manifest.labels.index(label) for label in labels]
        of_reference = scores(given.logits, reference.manifest.problem_type)
        of_candidate = scores(tried.logits, candidate.manifest.problem_type)[:, columns]
        agree = agreeing(reference.manifest.problem_type, of_reference, of_candidate)
        same_label = agree if agree is not None else np.ones(len(inputs), dtype=bool)
        experiment.agreement.add(of_reference, of_candidate, same_label)
        experiment.agreement.reference_seconds.add(given.inference_seconds / len(inputs))
        experiment.agreement.candidate_seconds.add(tried.inference_seconds / len(inputs))
        self._metrics.compared_aside(task, candidate.manifest.variant, experiment.agreement)
        for position in np.flatnonzero(~same_label):
            self._keep(task, request_id, int(position), reference, candidate, of_reference, of_candidate, inputs)
        self._guard(task, experiment)

    def _keep(
        self,
        task: str,
        request_id: str | None,
        position: int,
        reference: Engine,
        candidate: Engine,
        of_reference: Logits,
        of_candidate: Logits,
        inputs: Sequence[TextInput],
    ) -> None:
        labels = reference.manifest.labels
        one, other = of_reference[position], of_candidate[position]
        self._disagreements.add(
            Disagreement(
                at=datetime.now(UTC),
                task=task,
                request_id=request_id,
                position=position,
                reference=reference.manifest.variant,
                reference_version=reference.manifest.version,
                candidate=candidate.manifest.variant,
                candidate_version=candidate.manifest.version,
                reference_label=labels[int(one.argmax())],
                candidate_label=labels[int(other.argmax())],
                difference=float(np.abs(one - other).max()),
                text=inputs[position].text if self._keep_texts else None,
                text_pair=inputs[position].text_pair if self._keep_texts else None,
            )
        )

    def _guard(self, task: str, experiment: Experiment) -> None:
        guard, seen = experiment.policy.guard, experiment.agreement
        if guard is None or experiment.stopped or seen.inputs < guard.inputs:
            return
        if seen.is_below(guard.agreement, guard.confidence):
            experiment.stopped = (
                f"agreement is under {guard.agreement:.4g} with {100 * guard.confidence:.4g} % confidence: "
                f"{seen.agreed} of {seen.inputs} inputs"
            )
            self._metrics.experiments_stopped.labels(task, experiment.policy.candidate).inc()
            logger.error("%s: %s was taken off, its %s", task, experiment.policy.candidate, experiment.stopped)

    def _not_compared(self, task: str, experiment: Experiment) -> None:
        experiment.not_compared += 1
        self._metrics.not_compared.labels(task, experiment.policy.candidate).inc()


def _place(task: str, key: str | None) -> float:
    """A place in [0, 1): the same for the same key, anywhere for none."""
    if key is None:
        return random.random()
    digest = hashlib.blake2b(f"{task}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
