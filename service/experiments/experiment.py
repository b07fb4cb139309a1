"""One experiment: a candidate compared with the default variant of a task, and the guard that can stop it."""

import hashlib
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.service.experiments.agreement import RunningAgreement, same_prediction
from sparserve.service.experiments.comparison import ComparedVariant
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef, TextInput

# Inputs that are remembered as counted, at about 100 bytes each. After so many others an input is counted again.
DISTINCT_INPUTS_CAPACITY: Final = 2**16


class DistinctInputs:
    """Memory of the inputs that were counted already, so that a repeated input is one observation.

    Variants answer a text the same way every time. Copies contain no new information about their agreement, and an
    interval that counted them as independent would be too narrow. Inputs are remembered by keyed digests, which reveal
    nothing about a text.

    Args:
        capacity: remembered inputs; the oldest are forgotten first.
    """

    def __init__(self, capacity: int = DISTINCT_INPUTS_CAPACITY) -> None:
        self._capacity = capacity
        self._key = secrets.token_bytes(16)
        self._known: set[bytes] = set()
        self._in_order: deque[bytes] = deque()

    def add(self, inputs: Sequence[TextInput]) -> npt.NDArray[np.bool_]:
        """Remember the inputs of a request; return for each whether it is new, copies within the request excluded."""
        return np.array([self._is_new(item) for item in inputs], dtype=bool)

    def _is_new(self, item: TextInput) -> bool:
        pair = "" if item.text_pair is None else f"+{item.text_pair}"
        content = f"{len(item.text)}:{item.text}{pair}".encode()
        digest = hashlib.blake2b(content, digest_size=8, key=self._key).digest()
        if digest in self._known:
            return False
        if len(self._in_order) == self._capacity:
            self._known.discard(self._in_order.popleft())
        self._known.add(digest)
        self._in_order.append(digest)
        return True


@dataclass
class Experiment:
    """A policy and its statistics; `stopped` is the reason why the guard has ended it.

    The statistics apply to `models`, one version of the default variant and one of the candidate; None until both have
    been used. `repeated` counts inputs that had been counted before, `not_compared` counts requests.
    """

    policy: Policy
    since: datetime
    models: tuple[ModelRef, ModelRef] | None = None
    agreement: RunningAgreement = field(default_factory=RunningAgreement)
    repeated: int = 0
    not_compared: int = 0
    stopped: str | None = None
    _counted: DistinctInputs = field(default_factory=DistinctInputs)

    def add(
        self, reference: ComparedVariant, candidate: ComparedVariant, inputs: Sequence[TextInput]
    ) -> npt.NDArray[np.bool_]:
        """Count the inputs that are new; return for each input whether both variants predict the same."""
        agree = same_prediction(reference.engine.manifest.problem_type, reference.scores, candidate.scores)
        same = agree if agree is not None else np.ones(len(inputs), dtype=bool)
        new = self._counted.add(inputs)
        self.agreement.add(reference.scores[new], candidate.scores[new], same[new])
        self.agreement.reference_seconds.add(reference.seconds_per_input)
        self.agreement.candidate_seconds.add(candidate.seconds_per_input)
        self.repeated += int((~new).sum())
        return same

    def apply_guard(self) -> bool:
        """Stop the experiment if its agreement is below the policy's level; return True if this call stopped it."""
        guard, seen = self.policy.guard, self.agreement
        if guard is None or self.stopped or seen.inputs < guard.inputs:
            return False
        if not seen.is_below(guard.agreement, guard.confidence):
            return False
        self.stopped = (
            f"agreement is under {guard.agreement:.4g} with {100 * guard.confidence:.4g} % confidence: "
            f"{seen.agreed} of {seen.inputs} inputs"
        )
        return True
