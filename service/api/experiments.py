"""/v1/compare/{task}: start, show and end an experiment, a candidate beside the default variant on live traffic."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from sparserve.service.errors import UnknownResource
from sparserve.service.experiments.experiment import Experiment
from sparserve.service.experiments.statistics import RunningMean
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.json_route import JsonRoute
from sparserve.service.http.problems import problems
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef

router = APIRouter(route_class=JsonRoute, tags=["experiments"])
MAX_DISAGREEMENTS = 1000


class Estimate(BaseModel):
    """A figure with its 95 % interval; null if there are too few observations."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ExperimentStatus(BaseModel):
    """A task's experiment and its figures so far."""

    task: str
    policy: Policy
    default: ModelRef | None = Field(description="default variant of the figures; null before the first comparison")
    candidate: ModelRef | None = Field(
        description="candidate of the figures; they are reset when either version changes"
    )
    since: datetime
    inputs: int = Field(description="inputs that both variants have answered; each text counts once")
    repeated_inputs: int = Field(description="inputs that were not counted because they had been counted before")
    not_compared: int = Field(description="requests that were answered but not compared because of the load")
    agreement: Estimate = Field(
        description="fraction of inputs with the same labels, interval by Wilson; null for a regression"
    )
    score_difference: Estimate = Field(description="mean of the largest difference of a score")
    default_seconds_per_input: Estimate = Field(
        description="compute time, of shared batches its part; mean over requests"
    )
    candidate_seconds_per_input: Estimate
    stopped: str | None = Field(description="why the guard has stopped the candidate")


class DisagreementFacts(BaseModel):
    """One input with different labels; its texts only if the service keeps them."""

    at: datetime
    request_id: str | None
    position: int
    default: str
    default_version: str
    candidate: str
    candidate_version: str
    default_label: str
    candidate_label: str
    difference: float
    text: str | None
    text_pair: str | None


@router.get("/v1/compare/{task}", responses=problems(404))
async def show_experiment(task: str, service: ServiceDependency) -> ExperimentStatus:
    """Show the task's experiment."""
    return status(task, await _known(service, task))


@router.put("/v1/compare/{task}", responses=problems(400, 401, 403, 404, 413, 415, 422, 503))
async def begin_experiment(task: str, policy: Policy, service: ServiceDependency) -> ExperimentStatus:
    """Start an experiment; it replaces the task's current one."""
    return status(task, await service.experiments.begin(task, policy))


@router.delete("/v1/compare/{task}", responses=problems(401, 403, 404))
async def end_experiment(task: str, service: ServiceDependency) -> ExperimentStatus:
    """End the task's experiment; answers with its last figures."""
    experiment = await _known(service, task)
    return status(task, await service.experiments.end(task) or experiment)


@router.get("/v1/compare/{task}/disagreements", responses=problems(404, 422))
async def show_disagreements(
    task: str, service: ServiceDependency, limit: Annotated[int, Query(ge=1, le=MAX_DISAGREEMENTS)] = 100
) -> list[DisagreementFacts]:
    """List the latest inputs on which the variants disagreed, newest first."""
    await _known(service, task)
    rows = await run_in_threadpool(service.disagreements.recent, task, limit)
    return [
        DisagreementFacts(
            at=row.at,
            request_id=row.request_id,
            position=row.position,
            default=row.reference,
            default_version=row.reference_version,
            candidate=row.candidate,
            candidate_version=row.candidate_version,
            default_label=row.reference_label,
            candidate_label=row.candidate_label,
            difference=row.difference,
            text=row.text,
            text_pair=row.text_pair,
        )
        for row in rows
    ]


def status(task: str, experiment: Experiment) -> ExperimentStatus:
    """Return an experiment as clients see it."""
    seen = experiment.agreement
    low, high = seen.interval()
    default, candidate = experiment.models or (None, None)
    return ExperimentStatus(
        task=task,
        policy=experiment.policy,
        default=default,
        candidate=candidate,
        since=experiment.since,
        inputs=seen.inputs,
        repeated_inputs=experiment.repeated,
        not_compared=experiment.not_compared,
        agreement=Estimate(value=seen.rate, low=low, high=high) if seen.labelled else Estimate(value=None),
        score_difference=_estimate(seen.drift),
        default_seconds_per_input=_estimate(seen.reference_seconds),
        candidate_seconds_per_input=_estimate(seen.candidate_seconds),
        stopped=experiment.stopped,
    )


def _estimate(running: RunningMean) -> Estimate:
    interval: Sequence[float | None] = running.interval() or (None, None)
    return Estimate(value=running.mean if running.count else None, low=interval[0], high=interval[1])


async def _known(service: ServiceDependency, task: str) -> Experiment:
    experiment = await service.experiments.find(task)
    if experiment is None:
        running = ", ".join(sorted(service.experiments.experiments)) or "none"
        raise UnknownResource(f"task {task!r} has no experiment; tasks with an experiment: {running}")
    return experiment
