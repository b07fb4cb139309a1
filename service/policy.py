"""What share of a task's live traffic a candidate gets, and when it is taken off again."""

from typing import Literal

from pydantic import ConfigDict, Field

from sparserve.service.strict_model import ClosedModel


class Guard(ClosedModel):
    """When a candidate is taken off: once its agreement is under a level, beyond doubt."""

    model_config = ConfigDict(frozen=True)

    agreement: float = Field(gt=0, le=1, description="least fraction of inputs with the same labels")
    confidence: float = Field(
        0.999, gt=0.5, lt=1, description="of the one-sided bound; high, for it is looked at after every request"
    )
    inputs: int = Field(200, ge=1, description="inputs to see before anything is decided")


class Policy(ClosedModel):
    """What share of a task's traffic a candidate gets, and how."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["shadow", "split"]
    candidate: str = Field(description="the variant beside the task's default")
    share: float = Field(gt=0, le=1, description="fraction of the requests")
    guard: Guard | None = None
