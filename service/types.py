"""Values that every layer and protocol of the service shares. Seconds, bytes and fractions throughout."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FunctionToApply = Literal["softmax", "sigmoid", "none"]


class TextInput(BaseModel):
    """One input: a text, or a pair of texts for tasks that compare two."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    text_pair: str | None = None

    @property
    def characters(self) -> int:
        """Number of characters of both texts."""
        return len(self.text) + len(self.text_pair or "")


class ModelRef(BaseModel):
    """The exact bundle that answered."""

    task: str
    variant: str
    version: str


class Prediction(BaseModel):
    """A label and its score."""

    label: str
    score: float


class Usage(BaseModel):
    """The cost of one input."""

    tokens: int = Field(description="tokens that the model saw, special tokens included")
    truncated: bool = Field(description="true if the text had more tokens than that")


class Timings(BaseModel):
    """Duration of a request by stage."""

    queue_seconds: float
    tokenize_seconds: float
    inference_seconds: float
    total_seconds: float
