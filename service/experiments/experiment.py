"""One candidate beside a default variant: its policy, what has been seen under it, and whether it is taken off."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from sparserve.service.experiments.agreement import Agreement, agreeing
from sparserve.service.experiments.comparison import Arm
from sparserve.service.experiments.distinct_inputs import DistinctInputs
from sparserve.service.settings import Policy
from sparserve.service.types import ModelRef, TextInput


@dataclass
class Experiment:
    """A policy and what has been seen under it; `stopped` says why the guard has ended it.

    `models` are the default and the candidate that the figures are of; None until both have been asked. Of the inputs
    that both answered, `repeated` had been counted before; `not_compared` are requests.
    """

    policy: Policy
    since: datetime
    models: tuple[ModelRef, ModelRef] | None = None
    agreement: Agreement = field(default_factory=Agreement)
    repeated: int = 0
    not_compared: int = 0
    stopped: str | None = None
    _counted: DistinctInputs = field(default_factory=DistinctInputs)

    def take_in(self, reference: Arm, candidate: Arm, inputs: Sequence[TextInput]) -> npt.NDArray[np.bool_]:
        """Count the inputs that were not counted yet; for each input, whether both arms say the same of it."""
        agree = agreeing(reference.engine.manifest.problem_type, reference.scores, candidate.scores)
        same = agree if agree is not None else np.ones(len(inputs), dtype=bool)
        new = self._counted.add(inputs)
        self.agreement.add(reference.scores[new], candidate.scores[new], same[new])
        self.agreement.reference_seconds.add(reference.seconds_per_input)
        self.agreement.candidate_seconds.add(candidate.seconds_per_input)
        self.repeated += int((~new).sum())
        return same

    def guard(self) -> bool:
        """Stop it if its agreement is under the policy's level beyond doubt; whether that was done now."""
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
