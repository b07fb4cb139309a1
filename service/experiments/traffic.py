"""Two variants on a task's live traffic: a candidate beside the default variant, in its shadow or for a share of it.

`shadow`: the default answers, and for a share of the requests the candidate runs aside, in the background of the queue.
`split`: the candidate answers a share of the requests, the same ones for the same routing key, and the default runs
aside. Either way both variants' answers to the same inputs are compared. Requests that name a variant take no part.

Figures are of two versions: they begin anew when another version of either variant is served, and what was asked of the
ones before is not counted.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from sparserve.models.bundle.inference import Tokens
from sparserve.service.catalog.catalog import Catalog
from sparserve.service.errors import InvalidRequest, ServiceError
from sparserve.service.experiments.agreement import said
from sparserve.service.experiments.comparison import Arm
from sparserve.service.experiments.disagreements import Disagreement, Disagreements
from sparserve.service.experiments.experiment import Experiment
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.classification import Classification, classify
from sparserve.service.inference.engine import Engine
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Policy
from sparserve.service.types import TextInput

logger = logging.getLogger(__name__)

# Requests that may run aside at a time: more are answered all the same, but not compared.
ASIDE: Final = 64
# Seconds after which a comparison is given up: it waits for idle moments only.
PATIENCE: Final = 10.0


@dataclass(frozen=True)
class Route:
    """Who answers a request, who runs aside, and the experiment that asks for it."""

    engine: Engine
    aside: Engine | None = None
    experiment: Experiment | None = None


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
        for task, policy in policies.items():
            _log_begin(task, policy)
            metrics.experiment_begun(task, policy.candidate)
            if policy.guard:
                logger.warning(
                    "%s: a guard's decision ends with the process, so %s takes part even if it was taken off before: "
                    "take a candidate that should stay off out of the settings",
                    task,
                    policy.candidate,
                )

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
        _log_begin(task, policy)
        return self._begin(task, policy, reference, candidate)

    def end(self, task: str) -> Experiment | None:
        """End a task's experiment; None if there is none."""
        experiment = self.experiments.pop(task, None)
        if experiment:
            self._metrics.experiment_ended(task, experiment.policy.candidate)
        return experiment

    def find(self, task: str) -> Experiment | None:
        """A task's experiment, of the versions that are served now; None if there is none."""
        experiment = self.experiments.get(task)
        if experiment:
            with contextlib.suppress(ServiceError):  # nothing serves: the figures are those of what did
                default = self._catalog.engine(task)
                if candidate := self._candidate(experiment.policy, default):
                    return self._of_versions(task, experiment, default, candidate)
        return experiment

    def route(self, task: str, key: str | None) -> Route:
        """Who answers a request that names no variant; requests with the same `key` are answered by the same one.

        Raises:
            UnknownResource, Unavailable: as `Catalog.engine` does for the default variant.
        """
        default = self._catalog.engine(task)
        experiment = self.experiments.get(task)
        if experiment is None or _place(task, experiment.policy.candidate, key) >= experiment.policy.share:
            return Route(default)
        candidate = self._candidate(experiment.policy, default)
        if candidate is None:
            return Route(default)
        experiment = self._of_versions(task, experiment, default, candidate)
        if experiment.stopped:
            return Route(default)
        split = experiment.policy.mode == "split"
        return Route(candidate, default, experiment) if split else Route(default, candidate, experiment)

    def compare(
        self, task: str, route: Route, inputs: Sequence[TextInput], answered: Classification, request_id: str | None
    ) -> None:
        """Run the other variant aside, on the tokens of the answer that was given, and take both in."""
        experiment = route.experiment
        if experiment is None or self.experiments.get(task) is not experiment:
            return
        if len(self._running) >= ASIDE:
            self._not_compared(task, experiment)
            return
        work = self._compare(task, experiment, route, inputs, answered, request_id)
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def not_answered(self, task: str, route: Route) -> Engine | None:
        """Count a request that a candidate failed to answer; who is to answer it instead, None where nobody can."""
        experiment = route.experiment
        if experiment is None or experiment.policy.mode != "split":
            return None
        if self.experiments.get(task) is experiment:
            self._not_compared(task, experiment)
        return route.aside

    async def settled(self) -> None:
        """Wait until nothing runs aside."""
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Give up what runs aside."""
        for running in self._running:
            running.cancel()

    def _candidate(self, policy: Policy, default: Engine) -> Engine | None:
        """The candidate, None where it cannot take part: the default answers as if nothing was asked."""
        try:
            candidate = self._catalog.engine(default.ref.task, policy.candidate)
        except ServiceError:  # it has gone, or was never there
            return None
        if not candidate.health.healthy:  # what fails again and again is loaded anew, and then takes part again
            return None
        same = candidate is default or set(candidate.manifest.labels) != set(default.manifest.labels)
        return None if same else candidate

    def _of_versions(self, task: str, experiment: Experiment, default: Engine, candidate: Engine) -> Experiment:
        """The experiment, begun anew if what it has seen was of other versions."""
        if experiment.models == (default.ref, candidate.ref):
            return experiment
        if experiment.models:
            versions = default.ref.version, candidate.ref.version
            logger.info("%s: another version of a variant, so figures begin anew: %s and %s", task, *versions)
        return self._begin(task, experiment.policy, default, candidate)

    def _begin(self, task: str, policy: Policy, default: Engine, candidate: Engine) -> Experiment:
        self.end(task)
        self._metrics.experiment_begun(task, policy.candidate)
        found = self.experiments[task] = Experiment(policy, datetime.now(UTC), (default.ref, candidate.ref))
        return found

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
        if self.experiments.get(task) is not experiment:
            return
        split = experiment.policy.mode == "split"
        labels = (route.aside if split else route.engine).manifest.labels
        one, two = Arm.of(route.engine, answered, labels), Arm.of(route.aside, other, labels)
        reference, candidate = (two, one) if split else (one, two)
        same_label = experiment.take_in(reference, candidate, inputs)
        self._metrics.compared_aside(
            task,
            experiment.policy.candidate,
            agreement=experiment.agreement.rate or 0.0,
            drift=experiment.agreement.drift.mean,
            inputs=experiment.agreement.inputs,
            default_seconds=reference.seconds_per_input,
            candidate_seconds=candidate.seconds_per_input,
        )
        for position in map(int, np.flatnonzero(~same_label)):
            self._keep(task, request_id, position, reference, candidate, inputs[position])
        if experiment.guard():
            name, reason = experiment.policy.candidate, experiment.stopped
            self._metrics.experiments_stopped.labels(task, name).inc()
            logger.error("%s: %s was taken off until a restart or another version, its %s", task, name, reason)

    def _keep(
        self, task: str, request_id: str | None, position: int, reference: Arm, candidate: Arm, item: TextInput
    ) -> None:
        labels, problem_type = reference.engine.manifest.labels, reference.engine.manifest.problem_type
        one, other = reference.scores[position], candidate.scores[position]
        self._disagreements.add(
            Disagreement(
                at=datetime.now(UTC),
                task=task,
                request_id=request_id,
                position=position,
                reference=reference.engine.ref.variant,
                reference_version=reference.engine.ref.version,
                candidate=candidate.engine.ref.variant,
                candidate_version=candidate.engine.ref.version,
                reference_label=said(problem_type, labels, one),
                candidate_label=said(problem_type, labels, other),
                difference=float(np.abs(one - other).max()),
                text=item.text if self._keep_texts else None,
                text_pair=item.text_pair if self._keep_texts else None,
            )
        )

    def _not_compared(self, task: str, experiment: Experiment) -> None:
        experiment.not_compared += 1
        self._metrics.not_compared.labels(task, experiment.policy.candidate).inc()


def _log_begin(task: str, policy: Policy) -> None:
    logger.info("%s: %s of %s for %.4g of the requests", task, policy.mode, policy.candidate, policy.share)


def _place(task: str, candidate: str, key: str | None) -> float:
    """A place in [0, 1): the same for the same key, anywhere for none.

    Another one for every candidate, or the same clients would get all of them.
    """
    if key is None:
        return random.random()
    digest = hashlib.blake2b(f"{task}\n{candidate}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
