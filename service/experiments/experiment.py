"""One experiment: a candidate compared with the default variant of a task, and the guard that can stop it.

Processes of a service send experiments and observations to each other, so both can be written as JSON.
"""

import hashlib
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from sparserve.service.experiments.statistics import RunningAgreement, RunningMean
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef, TextInput

# Inputs that are remembered as counted, at about 100 bytes each. After so many others an input is counted again.
DISTINCT_INPUTS_CAPACITY: Final = 2**16


def input_digest(item: TextInput, key: bytes) -> int:
    """Return a keyed digest of an input, which reveals nothing about its text."""
    pair = "" if item.text_pair is None else f"+{item.text_pair}"
    content = f"{len(item.text)}:{item.text}{pair}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "big")


class DistinctInputs:
    """Memory of the inputs that were counted already, so that a repeated input is one observation.

    Variants answer a text the same way every time. Copies contain no new information about their agreement, and an
    interval that counted them as independent would be too narrow.

    Args:
        capacity: remembered inputs; the oldest are forgotten first.
    """

    def __init__(self, capacity: int = DISTINCT_INPUTS_CAPACITY) -> None:
        self._capacity = capacity
        self._known: set[int] = set()
        self._in_order: deque[int] = deque()

    def add(self, digest: int) -> bool:
        """Remember an input; return True if it is new."""
        if digest in self._known:
            return False
        if len(self._in_order) == self._capacity:
            self._known.discard(self._in_order.popleft())
        self._known.add(digest)
        self._in_order.append(digest)
        return True


@dataclass(frozen=True)
class Observation:
    """The answers of both variants to the inputs of one request; one entry per input, seconds per input.

    `agree` is None for each input of a regression, which has no labels.
    """

    digests: Sequence[int]
    agree: Sequence[bool | None]
    differences: Sequence[float]
    default_seconds: float
    candidate_seconds: float


@dataclass
class Experiment:
    """A policy and its statistics; `stopped` is the reason why the guard has ended it.

    The statistics apply to `models`, one version of the default variant and one of the candidate; None until both have
    been used. `repeated` counts inputs that had been counted before, `not_compared` counts requests. `id` tells it from
    the experiments of the same task before and after it, and `key` is that of the digests of its inputs.
    """

    policy: Policy
    since: datetime
    models: tuple[ModelRef, ModelRef] | None = None
    agreement: RunningAgreement = field(default_factory=RunningAgreement)
    repeated: int = 0
    not_compared: int = 0
    stopped: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    key: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _counted: DistinctInputs = field(default_factory=DistinctInputs)

    def add(self, observation: Observation) -> None:
        """Count the inputs that are new."""
        columns = zip(observation.digests, observation.agree, observation.differences, strict=True)
        for digest, agree, difference in columns:
            if self._counted.add(digest):
                self.agreement.add(agree, difference)
            else:
                self.repeated += 1
        self.agreement.reference_seconds.add(observation.default_seconds)
        self.agreement.candidate_seconds.add(observation.candidate_seconds)

    def apply_guard(self) -> bool:
        """Stop the experiment if its agreement is below the policy's level; return True if this call stopped it."""
        guard, seen = self.policy.guard, self.agreement
        if guard is None or self.stopped or seen.inputs < guard.inputs:
            return False
        if not seen.is_below(guard.agreement, guard.confidence):
            return False
        self.stopped = (
            f"agreement is under {guard.agreement:.4g} with {100 * guard.confidence:.4g} % confidence: "
            f"{seen.agreed} of {seen.labelled} inputs"
        )
        return True

    def to_message(self) -> dict[str, Any]:
        """Return the experiment as JSON can hold it, without the inputs that were counted."""
        return {
            "policy": self.policy.model_dump(mode="json"),
            "since": self.since.isoformat(),
            "models": self.models and [asdict(model) for model in self.models],
            "agreement": asdict(self.agreement),
            "repeated": self.repeated,
            "not_compared": self.not_compared,
            "stopped": self.stopped,
            "id": self.id,
            "key": self.key.hex(),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Return the experiment of a message."""
        models = [ModelRef(**model) for model in message["models"] or ()]
        figures: dict[str, Any] = {
            name: RunningMean(**value) if isinstance(value, dict) else value
            for name, value in message["agreement"].items()
        }
        return cls(
            policy=Policy(**message["policy"]),
            since=datetime.fromisoformat(message["since"]),
            models=(models[0], models[1]) if models else None,
            agreement=RunningAgreement(**figures),
            repeated=message["repeated"],
            not_compared=message["not_compared"],
            stopped=message["stopped"],
            id=message["id"],
            key=bytes.fromhex(message["key"]),
        )
