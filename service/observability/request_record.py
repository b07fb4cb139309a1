"""Record of a running request, for its log line and its trace: counts and times, never texts."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from sparserve.service.types import ModelRef

# Requested every few seconds: logged at level debug only, and not traced.
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})


class Tracer(Protocol):
    """Receiver of the stages of the current request."""

    def trace_id(self) -> str:
        """Return the id of the request's trace, 32 hexadecimal digits."""

    def describe(self, facts: dict[str, str | int]) -> None:
        """Add attributes to the request."""

    def stage(self, name: str, began: float, ended: float, facts: dict[str, str | int]) -> None:
        """Add one stage; `began` and `ended` are seconds on the performance counter."""


@dataclass
class ModelRun:
    """Inputs through one model."""

    model: ModelRef
    inputs: int
    tokens: int
    queue_seconds: float | None = None

    @property
    def facts(self) -> dict[str, str | int]:
        """Attributes for a trace."""
        names = {"task": self.model.task, "variant": self.model.variant, "version": self.model.version}
        return {**names, "inputs": self.inputs, "tokens": self.tokens}


@dataclass
class RequestRecord:
    """Record of one request, filled in by `classification`."""

    trace_id: str | None = None
    tracer: Tracer | None = None
    warnings: list[str] = field(default_factory=list)
    """Reasons for the client to doubt the answer; each protocol passes them on."""
    _runs: list[ModelRun] = field(default_factory=list)

    def tokenized(self, model: ModelRef, lengths: list[int], began: float, ended: float) -> ModelRun:
        """Record tokenised inputs of `lengths` tokens; `began` and `ended` are seconds on the performance counter."""
        run = ModelRun(model, len(lengths), sum(lengths))
        self._runs.append(run)
        if self.tracer:
            self.tracer.describe(self.facts())
            self.tracer.stage("tokenize", began, ended, run.facts)
        return run

    def answered(self, run: ModelRun, began: float, queue_seconds: float, ended: float) -> None:
        """Record an answered run: it was queued from `began`, and its batches ended at `ended`."""
        run.queue_seconds = queue_seconds
        if self.tracer:
            self.tracer.stage("queue", began, began + queue_seconds, run.facts)
            self.tracer.stage("inference", began + queue_seconds, ended, run.facts)

    def facts(self) -> dict[str, str | int]:
        """Return task, variant and version, joined by commas for several models, and the total of inputs and tokens."""
        if not self._runs:
            return {}
        if len(self._runs) == 1:
            (run,) = self._runs
            return run.facts
        models = [run.model for run in self._runs]
        return {
            "task": ",".join(dict.fromkeys(model.task for model in models)),
            "variant": ",".join(model.variant for model in models),
            "version": ",".join(model.version for model in models),
            "inputs": sum(run.inputs for run in self._runs),
            "tokens": sum(run.tokens for run in self._runs),
        }

    def warning(self) -> str | None:
        """Return all warnings in one line for a header; None if there are none."""
        return " | ".join(dict.fromkeys(self.warnings)) if self.warnings else None

    def queue_seconds(self) -> float | None:
        """Return the total time in the queue; None if no run left it."""
        waited = [run.queue_seconds for run in self._runs if run.queue_seconds is not None]
        return sum(waited) if waited else None


# Set during a request, so that protocols need not pass it on. Each task of the event loop has a separate value.
recording: Final[ContextVar[RequestRecord | None]] = ContextVar("recording", default=None)


def current_record() -> RequestRecord:
    """Return the record of the current request; outside a request, a new one that is not used."""
    return recording.get() or RequestRecord()
