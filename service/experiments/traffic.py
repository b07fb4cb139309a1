"""Experiments on live traffic: a candidate beside the default variant of a task.

`shadow`: the default variant answers; for a share of the requests the candidate runs in the background.
`split`: the candidate answers a share of the requests, the same ones for the same routing key; the default variant runs
in the background. In both modes the two answers to the same inputs are compared. Requests that name a variant take no
part.

Statistics apply to one pair of versions. They restart when another version of either variant is served, and answers of
the old versions that arrive later are not counted.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from sparserve.service.catalog.catalog import Catalog
from sparserve.service.errors import InvalidRequest, ServiceError
from sparserve.service.experiments.agreement import predicted_label, same_prediction
from sparserve.service.experiments.comparison import ComparedVariant
from sparserve.service.experiments.disagreements import Disagreement, Disagreements
from sparserve.service.experiments.experiment import Experiment, Observation, input_digest
from sparserve.service.experiments.ledger import Ledger
from sparserve.service.inference.batcher import Batcher
from sparserve.service.inference.classification import Classification, classify
from sparserve.service.inference.engine import Engine
from sparserve.service.settings import Policy
from sparserve.service.types import RequestOptions, TextInput

logger = logging.getLogger(__name__)

# Comparisons in the background at a time. Further requests are answered but not compared.
MAX_BACKGROUND_COMPARISONS: Final = 64
# A comparison runs in idle moments only, so it may take long.
COMPARISON_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Route:
    """The engine that answers a request, the engine that runs in the background, and their experiment."""

    engine: Engine
    background: Engine | None = None
    experiment: Experiment | None = None


class Experiments:
    """Routes requests by the experiments of their tasks. All methods run on the event loop.

    Args:
        ledger: has the experiments; in a service of several processes, those of the whole.
        catalog: has the engines.
        batcher: runs them.
        disagreements: gets the inputs with different labels.
        keep_texts: write their texts too.
    """

    def __init__(
        self, ledger: Ledger, *, catalog: Catalog, batcher: Batcher, disagreements: Disagreements, keep_texts: bool
    ) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._batcher = batcher
        self._disagreements = disagreements
        self._keep_texts = keep_texts
        self._running: set[asyncio.Task[None]] = set()

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """The experiment of each task."""
        return self._ledger.experiments

    async def begin(self, task: str, policy: Policy) -> Experiment:
        """Begin an experiment, with new statistics, in place of the task's present one.

        Raises:
            UnknownResource: there is no such task or variant.
            Unavailable: the candidate is not served.
            InvalidRequest: the candidate is the default variant, or has other labels or inputs, or the policy has a
                guard although the answers are numbers.
        """
        reference, candidate = self._catalog.engine(task), self._catalog.engine(task, policy.candidate)
        if candidate is reference:
            raise InvalidRequest(f"candidate: {policy.candidate} is the default variant of {task}: name another one")
        if set(candidate.manifest.labels) != set(reference.manifest.labels):
            raise InvalidRequest(f"candidate: {policy.candidate} has other labels than {reference.manifest.variant}")
        if _other_inputs(candidate, reference):
            raise InvalidRequest(
                f"candidate: one of {policy.candidate} and {reference.manifest.variant} was trained on pairs of texts, "
                "the other on single texts"
            )
        if _guards_numbers(policy, reference):
            raise InvalidRequest(f"guard: {task} predicts a number, not labels that could agree: leave out the guard")
        return await self._ledger.begin(task, policy, (reference.ref, candidate.ref))

    async def end(self, task: str) -> Experiment | None:
        """End a task's experiment and return it; None if there is none."""
        return await self._ledger.end(task)

    async def find(self, task: str) -> Experiment | None:
        """Return a task's experiment for the versions that are served now; None if there is none."""
        self.follow_versions(task)
        return await self._ledger.read(task)

    def follow_versions(self, task: str) -> None:
        """Restart the statistics of a task's experiment if other versions are served than they apply to."""
        experiment = self.experiments.get(task)
        if experiment:
            with contextlib.suppress(ServiceError):  # nothing is served: keep the last statistics
                default = self._catalog.engine(task)
                if candidate := self._candidate(experiment.policy, default):
                    self._for_versions(task, experiment, default, candidate)

    def route(self, task: str, key: str | None) -> Route:
        """Choose the engine for a request that names no variant; the same `key` always gets the same variant.

        Raises:
            UnknownResource, Unavailable: as in `Catalog.engine` for the default variant.
        """
        default = self._catalog.engine(task)
        experiment = self.experiments.get(task)
        if experiment is None or traffic_position(task, experiment.policy.candidate, key) >= experiment.policy.share:
            return Route(default)
        candidate = self._candidate(experiment.policy, default)
        if candidate is None:
            return Route(default)
        experiment = self._for_versions(task, experiment, default, candidate)
        if experiment is None or experiment.stopped:
            return Route(default)
        split = experiment.policy.mode == "split"
        return Route(candidate, default, experiment) if split else Route(default, candidate, experiment)

    def compare(
        self, task: str, route: Route, inputs: Sequence[TextInput], answered: Classification, request_id: str | None
    ) -> None:
        """Run the other variant in the background, on the same tokens if possible, and count both answers."""
        experiment = route.experiment
        if experiment is None or not self._is_current(task, experiment):
            return
        if len(self._running) >= MAX_BACKGROUND_COMPARISONS:
            self._ledger.not_compared(task, experiment)
            return
        work = self._compare(task, experiment, route, inputs, answered, request_id)
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def not_answered(self, task: str, route: Route) -> Engine | None:
        """Count a failed answer of a candidate; return the engine to use instead, or None if there is none."""
        experiment = route.experiment
        if experiment is None or experiment.policy.mode != "split":
            return None
        self._ledger.not_compared(task, experiment)
        return route.background

    async def settled(self) -> None:
        """Wait until no comparison is running."""
        while self._running:
            await asyncio.wait(self._running)

    def close(self) -> None:
        """Cancel all running comparisons."""
        for running in self._running:
            running.cancel()

    def _candidate(self, policy: Policy, default: Engine) -> Engine | None:
        """Return the candidate's engine, or None if it cannot take part; then the default variant answers alone."""
        try:
            candidate = self._catalog.engine(default.ref.task, policy.candidate)
        except ServiceError:  # it is not in the store
            return None
        if not candidate.health.healthy:  # it takes part again when it has been reloaded
            return None
        other_labels = set(candidate.manifest.labels) != set(default.manifest.labels)
        unusable = candidate is default or other_labels or _other_inputs(candidate, default)
        return None if unusable else candidate

    def _for_versions(self, task: str, experiment: Experiment, default: Engine, candidate: Engine) -> Experiment | None:
        """Return the experiment, restarted if its statistics are those of other versions.

        Return None if it cannot be restarted at once: other processes of the service decide that as well.
        """
        models = default.ref, candidate.ref
        if experiment.models != models:
            if _guards_numbers(experiment.policy, default):
                logger.warning("%s predicts a number, not labels that could agree: its guard stops no candidate", task)
            self._ledger.restart(task, experiment, models)
            experiment = self.experiments.get(task, experiment)
        return experiment if experiment.models == models else None

    def _is_current(self, task: str, experiment: Experiment) -> bool:
        current = self.experiments.get(task)
        return current is not None and current.id == experiment.id

    async def _compare(
        self,
        task: str,
        experiment: Experiment,
        route: Route,
        inputs: Sequence[TextInput],
        answered: Classification,
        request_id: str | None,
    ) -> None:
        assert route.background is not None
        same_tokens = route.background.tokenization == route.engine.tokenization
        tokens = answered.tokens if same_tokens else None
        try:
            options = RequestOptions().within(COMPARISON_TIMEOUT_SECONDS)
            other = await classify(
                self._batcher,
                route.background,
                inputs,
                options,
                long_texts=answered.long_texts,
                tokens=tokens,
                background=True,
            )
        except ServiceError:
            self._ledger.not_compared(task, experiment)
            return
        if not self._is_current(task, experiment):
            return
        split = experiment.policy.mode == "split"
        labels = (route.background if split else route.engine).manifest.labels
        first = ComparedVariant.of(route.engine, answered, labels)
        second = ComparedVariant.of(route.background, other, labels)
        reference, candidate = (second, first) if split else (first, second)
        observation = observe(reference, candidate, inputs, experiment.key)
        for position, agree in enumerate(observation.agree):
            if agree is False:
                self._keep(task, request_id, position, reference, candidate, inputs[position])
        self._ledger.observe(task, experiment, observation)

    def _keep(
        self,
        task: str,
        request_id: str | None,
        position: int,
        reference: ComparedVariant,
        candidate: ComparedVariant,
        item: TextInput,
    ) -> None:
        labels, problem_type = reference.engine.manifest.labels, reference.engine.manifest.problem_type
        reference_scores, candidate_scores = reference.scores[position], candidate.scores[position]
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
                reference_label=predicted_label(problem_type, labels, reference_scores),
                candidate_label=predicted_label(problem_type, labels, candidate_scores),
                difference=float(np.abs(reference_scores - candidate_scores).max()),
                text=item.text if self._keep_texts else None,
                text_pair=item.text_pair if self._keep_texts else None,
            )
        )


def _guards_numbers(policy: Policy, default: Engine) -> bool:
    return policy.guard is not None and default.manifest.problem_type == "regression"


def _other_inputs(candidate: Engine, default: Engine) -> bool:
    kinds = {candidate.manifest.inputs, default.manifest.inputs} - {None}
    return len(kinds) > 1


def observe(
    reference: ComparedVariant, candidate: ComparedVariant, inputs: Sequence[TextInput], key: bytes
) -> Observation:
    """Return what an experiment counts of the answers of both variants to the same inputs."""
    same = same_prediction(reference.engine.manifest.problem_type, reference.scores, candidate.scores)
    return Observation(
        digests=[input_digest(item, key) for item in inputs],
        agree=[None] * len(inputs) if same is None else same.tolist(),
        differences=np.abs(reference.scores - candidate.scores).max(axis=-1).tolist(),
        default_seconds=reference.seconds_per_input,
        candidate_seconds=candidate.seconds_per_input,
    )


def traffic_position(task: str, candidate: str, key: str | None) -> float:
    """Map a routing key to a position in [0, 1); without a key the position is random.

    It also depends on the candidate, so that successive candidates do not get the same clients.
    """
    if key is None:
        return random.random()
    digest = hashlib.blake2b(f"{task}\n{candidate}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
