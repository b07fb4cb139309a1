"""What is learnt of a request while it runs, for its log line and its trace: counts and times, never a text."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from sparserve.service.types import ModelRef

# Asked every few seconds: logged for debugging only, and not traced.
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})


class Tracer(Protocol):
    """Where the stages of the request that runs now are written down besides."""

    def trace_id(self) -> str:
        """The id of the request's trace, 32 hexadecimal digits."""

    def describe(self, facts: dict[str, str | int]) -> None:
        """Add facts to the request."""

    def stage(self, name: str, began: float, ended: float, facts: dict[str, str | int]) -> None:
        """One stage of it, from and to seconds on the performance counter."""


@dataclass
class ModelRun:
    """Inputs through one model."""

    model: ModelRef
    inputs: int
    tokens: int
    queue_seconds: float | None = None

    @property
    def facts(self) -> dict[str, str | int]:
        """What a trace says of it."""
        names = {"task": self.model.task, "variant": self.model.variant, "version": self.model.version}
        return {**names, "inputs": self.inputs, "tokens": self.tokens}


@dataclass
class RequestRecord:
    """One request; `classification` fills it in, `observation` reads it."""

    trace_id: str | None = None
    tracer: Tracer | None = None
    _runs: list[ModelRun] = field(default_factory=list)

    def tokenized(self, model: ModelRef, lengths: list[int], began: float, ended: float) -> ModelRun:
        """Inputs of `lengths` tokens are about to wait for a model; tokenised in seconds on the performance counter."""
        run = ModelRun(model, len(lengths), sum(lengths))
        self._runs.append(run)
        if self.tracer:
            self.tracer.describe(self.facts())
            self.tracer.stage("tokenize", began, ended, run.facts)
        return run

    def answered(self, run: ModelRun, began: float, queue_seconds: float, ended: float) -> None:
        """They were run: from `began` they waited, then their batches took until `ended`."""
        run.queue_seconds = queue_seconds
        if self.tracer:
            self.tracer.stage("queue", began, began + queue_seconds, run.facts)
            self.tracer.stage("inference", began + queue_seconds, ended, run.facts)

    def facts(self) -> dict[str, str | int]:
        """Task, variant, version, and inputs and tokens in all; those of several models are joined by commas."""
        if not self._runs:
            return {}
        models = [run.model for run in self._runs]
        return {
            "task": ",".join(dict.fromkeys(model.task for model in models)),
            "variant": ",".join(model.variant for model in models),
            "version": ",".join(model.version for model in models),
            "inputs": sum(run.inputs for run in self._runs),
            "tokens": sum(run.tokens for run in self._runs),
        }

    def queue_seconds(self) -> float | None:
        """Time in the queue in all; None when nothing left it."""
        waited = [run.queue_seconds for run in self._runs if run.queue_seconds is not None]
        return sum(waited) if waited else None


# Set for the time of a request, so that protocols need not hand it down; each task of the event loop has its own.
recording: Final[ContextVar[RequestRecord | None]] = ContextVar("recording", default=None)


def current_record() -> RequestRecord:
    """The record of the request that runs now; outside of one, a new one that nobody reads."""
    return recording.get() or RequestRecord()
