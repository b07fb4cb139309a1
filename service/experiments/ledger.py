"""The experiments of a service and their statistics, of which there is one set whatever the number of processes."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from sparserve.service.experiments.experiment import Experiment, Observation
from sparserve.service.observability.metrics import ExperimentMetrics
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef

logger = logging.getLogger(__name__)

Models = tuple[ModelRef, ModelRef]


class Ledger(Protocol):
    """The experiments as the process that answers requests sees them; all methods run on its event loop."""

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """The experiment of each task; in a service of several processes without figures."""

    def restart(self, task: str, experiment: Experiment, models: Models) -> None:
        """Begin an experiment of the same policy for other versions."""

    def observe(self, task: str, experiment: Experiment, observation: Observation) -> None:
        """Count an observation, unless the experiment has ended."""

    def not_compared(self, task: str, experiment: Experiment) -> None:
        """Count a request that was not compared, unless the experiment has ended."""

    async def begin(self, task: str, policy: Policy, models: Models) -> Experiment:
        """Begin an experiment, with new statistics, in place of the task's present one."""

    async def end(self, task: str) -> Experiment | None:
        """End a task's experiment and return it with its figures; None if there is none."""

    async def read(self, task: str) -> Experiment | None:
        """Return a task's experiment with its figures; None if there is none."""


class ExperimentLedger:
    """Keeps the experiments in this process.

    Args:
        policies: experiments that begin with the service.
        metrics: gets their figures.
    """

    def __init__(self, policies: Mapping[str, Policy], metrics: ExperimentMetrics) -> None:
        self._metrics = metrics
        self.experiments = {task: Experiment(policy, datetime.now(UTC)) for task, policy in policies.items()}
        for task, policy in policies.items():
            _log_begin(task, policy)
            metrics.begun(task, policy.candidate)
            if policy.guard:
                logger.warning(
                    "%s: a decision of the guard does not outlive the service, so %s takes part even if the guard "
                    "stopped it before: remove a candidate that should stay stopped from the settings",
                    task,
                    policy.candidate,
                )

    async def begin(self, task: str, policy: Policy, models: Models) -> Experiment:
        """Begin an experiment, with new statistics, in place of the task's present one."""
        _log_begin(task, policy)
        return self._begin(task, policy, models)

    def restart(self, task: str, experiment: Experiment, models: Models) -> None:
        """Begin an experiment of the same policy for other versions, unless it was replaced already."""
        if not self._is_current(task, experiment.id):
            return
        if experiment.models:
            versions = [model.version for model in models]
            logger.info("%s: the version of a variant has changed, statistics restart: %s and %s", task, *versions)
        self._begin(task, experiment.policy, models)

    async def end(self, task: str) -> Experiment | None:
        """End a task's experiment and return it; None if there is none."""
        return self._end(task)

    async def read(self, task: str) -> Experiment | None:
        """Return a task's experiment; None if there is none."""
        return self.experiments.get(task)

    def observe(self, task: str, experiment: Experiment, observation: Observation) -> None:
        """Count an observation, and apply the guard."""
        if not self._is_current(task, experiment.id):
            return
        current = self.experiments[task]
        current.add(observation)
        seen, candidate = current.agreement, current.policy.candidate
        self._metrics.compared(
            task,
            candidate,
            agreement=seen.rate,
            score_difference=seen.drift.mean,
            inputs=seen.inputs,
            default_seconds=observation.default_seconds,
            candidate_seconds=observation.candidate_seconds,
        )
        if current.apply_guard():
            self._metrics.stopped.labels(task, candidate).inc()
            logger.error(
                "%s: the guard stopped %s until a restart or a new version: %s", task, candidate, current.stopped
            )

    def not_compared(self, task: str, experiment: Experiment) -> None:
        """Count a request that was not compared."""
        if self._is_current(task, experiment.id):
            current = self.experiments[task]
            current.not_compared += 1
            self._metrics.not_compared.labels(task, current.policy.candidate).inc()

    def _is_current(self, task: str, identity: str) -> bool:
        current = self.experiments.get(task)
        return current is not None and current.id == identity

    def _begin(self, task: str, policy: Policy, models: Models) -> Experiment:
        self._end(task)
        self._metrics.begun(task, policy.candidate)
        experiment = self.experiments[task] = Experiment(policy, datetime.now(UTC), models)
        return experiment

    def _end(self, task: str) -> Experiment | None:
        experiment = self.experiments.pop(task, None)
        if experiment:
            self._metrics.ended(task, experiment.policy.candidate)
        return experiment


def _log_begin(task: str, policy: Policy) -> None:
    logger.info("%s: %s of %s for %.4g of the requests", task, policy.mode, policy.candidate, policy.share)
