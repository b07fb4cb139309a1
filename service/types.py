"""Values that every layer and protocol of the service shares. Seconds, bytes and fractions throughout."""

import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from sparserve.models.bundle.windows import Aggregate, Overlong

FunctionToApply = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Options of a request beside its body.

    Attributes:
        deadline: latest time for the answer, on the performance counter; None for no limit.
        routing_key: requests with the same key get the same variant of a split; None to choose at random.
        request_id: identifies the request in logs and disagreements.
        client: identifies who sent it: the key, or the address; clients share the machine fairly.
        weight: share of this client relative to others.
        arrived: time of the request's arrival, on the performance counter.
    """

    deadline: float | None = None
    routing_key: str | None = None
    request_id: str | None = None
    client: str = ""
    weight: float = 1.0
    arrived: float = field(default_factory=time.perf_counter)

    def within(self, seconds: float) -> Self:
        """Return the same options with a deadline at most `seconds` after the request's arrival."""
        latest = self.arrived + seconds
        return replace(self, deadline=latest if self.deadline is None else min(self.deadline, latest))


@dataclass(frozen=True, slots=True)
class LongTextOptions:
    """Treatment of long texts that a request asks for; None for the task's default.

    `fallback` is the default of a task whose bundle has none; it differs between protocols.
    """

    overlong: Overlong | None = None
    stride: int | None = None
    aggregate: Aggregate | None = None
    fallback: Overlong = "truncate"


DEFAULT_LONG_TEXTS: Final = LongTextOptions()


class TextInput(BaseModel):
    """One input: a text, or a pair of texts for tasks that compare two."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    text_pair: str | None = None

    @property
    def characters(self) -> int:
        """Number of characters of both texts."""
        return len(self.text) + len(self.text_pair or "")


# Parts of answers are dataclasses: a pydantic model would validate what the service itself has computed.


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The exact bundle that answered."""

    task: str
    variant: str
    version: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label and its score."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of one input."""

    tokens: Annotated[int, Field(description="tokens that the model saw, special tokens included, of all windows")]
    truncated: Annotated[bool, Field(description="true if the model did not see the end of the text")]
    windows: Annotated[int, Field(description="windows that the text was split into; 1 if it was not")]


@dataclass(frozen=True, slots=True)
class Timings:
    """Duration of a request by stage."""

    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    total_seconds: float
