"""/v1/compare/{task}: a candidate beside the default variant on live traffic; begun, looked at and ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from sparserve.service.errors import UnknownResource
from sparserve.service.experiments.agreement import RunningMean
from sparserve.service.experiments.experiment import Experiment
from sparserve.service.http.dependencies import ServiceDependency
from sparserve.service.http.json_route import JsonRoute
from sparserve.service.http.problems import problems
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef

router = APIRouter(route_class=JsonRoute, tags=["experiments"])
MOST = 1000


class Estimate(BaseModel):
    """A figure with its 95 % interval, null where too little has been seen."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ExperimentStatus(BaseModel):
    """A task's experiment and what it has found so far."""

    task: str
    policy: Policy
    default: ModelRef | None = Field(description="the default variant that the figures are of; null before any")
    candidate: ModelRef | None = Field(
        description="the candidate that they are of; with another version they begin anew"
    )
    since: datetime
    inputs: int = Field(description="inputs that both variants have answered, each text counted once")
    repeated_inputs: int = Field(description="inputs that were not counted because the same had been before")
    not_compared: int = Field(description="requests that were answered, but not compared: too much to do")
    agreement: Estimate = Field(description="fraction of inputs with the same labels; interval by Wilson")
    score_difference: Estimate = Field(description="mean of the largest difference of a score")
    default_seconds_per_input: Estimate = Field(
        description="compute time, its part of shared batches; mean of requests"
    )
    candidate_seconds_per_input: Estimate
    stopped: str | None = Field(description="why the guard has taken the candidate off")


class DisagreementFacts(BaseModel):
    """One input with different labels; texts are there only if the service keeps them."""

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
    """The task's experiment."""
    return status(task, _known(service, task))


@router.put("/v1/compare/{task}", responses=problems(400, 401, 403, 404, 413, 415, 422, 503))
async def begin_experiment(task: str, policy: Policy, service: ServiceDependency) -> ExperimentStatus:
    """Begin an experiment in the place of the task's present one."""
    return status(task, service.experiments.begin(task, policy))


@router.delete("/v1/compare/{task}", responses=problems(401, 403, 404))
async def end_experiment(task: str, service: ServiceDependency) -> ExperimentStatus:
    """End the task's experiment; its last figures."""
    experiment = _known(service, task)
    service.experiments.end(task)
    return status(task, experiment)


@router.get("/v1/compare/{task}/disagreements", responses=problems(404, 422))
async def show_disagreements(
    task: str, service: ServiceDependency, limit: Annotated[int, Query(ge=1, le=MOST)] = 100
) -> list[DisagreementFacts]:
    """What the variants disagreed on last, the newest first."""
    _known(service, task)
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
    """An experiment as clients see it."""
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
        agreement=Estimate(value=seen.rate, low=low, high=high) if seen.inputs else Estimate(value=None),
        score_difference=_estimate(seen.drift),
        default_seconds_per_input=_estimate(seen.reference_seconds),
        candidate_seconds_per_input=_estimate(seen.candidate_seconds),
        stopped=experiment.stopped,
    )


def _estimate(running: RunningMean) -> Estimate:
    interval: Sequence[float | None] = running.interval() or (None, None)
    return Estimate(value=running.mean if running.count else None, low=interval[0], high=interval[1])


def _known(service: ServiceDependency, task: str) -> Experiment:
    experiment = service.experiments.find(task)
    if experiment is None:
        running = ", ".join(sorted(service.experiments.experiments)) or "none"
        raise UnknownResource(f"task {task!r} has no experiment; those that have one: {running}")
    return experiment
