"""One loaded bundle: texts to tokens, tokens to logits, logits to scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.inference import LoadedBundle, Tokens, probabilities, sigmoid, softmax
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.variants import Runtime
from sparserve.service.errors import InvalidRequest, TooManyTokens, Unavailable
from sparserve.service.inference.health import Health
from sparserve.service.inference.latency_model import Pace
from sparserve.service.types import FunctionToApply, ModelRef, TextInput

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """A bundle that has answered a warm-up request.

    `sample_difference` is the largest difference of a logit from the bundle's own sample, None where it has none.
    """

    loaded: LoadedBundle
    sample_difference: float | None = None
    health: Health = field(default_factory=Health, compare=False)
    pace: Pace = field(default_factory=Pace, compare=False)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.loaded.bundle.manifest

    @property
    def runtime(self) -> Runtime:
        """What runs it: "onnx", stock onnxruntime, or "sparse", the sparse runtime inside it."""
        return self.loaded.runtime

    @property
    def graph_bytes(self) -> int:
        """Size of the file of the graph that runs."""
        return self.manifest.files[SPARSE_MODEL if self.runtime == "sparse" else MODEL].bytes

    @cached_property
    def ref(self) -> ModelRef:
        """The exact bundle."""
        return ModelRef(task=self.manifest.task, variant=self.manifest.variant, version=self.manifest.version)

    @property
    def tokenization(self) -> tuple[str, int]:
        """Engines with equal ones turn a text into the same tokens."""
        return self.manifest.files[TOKENIZER].sha256, self.manifest.max_length

    def check_health(self) -> None:
        """Refuse to be called ready while batches fail.

        Raises:
            Unavailable: the last ones did.
        """
        if not self.health.healthy:
            raise Unavailable(
                f"{self.manifest.task}/{self.manifest.variant} fails again and again: it is loaded anew at the next "
                "look at the store"
            )

    def tokenize(self, inputs: Sequence[TextInput], *, truncate: bool = True) -> list[Tokens]:
        """Tokens of each input.

        Raises:
            InvalidRequest: an input has no tokens.
            TooManyTokens: it has more than the model takes, and `truncate` is off.
        """
        tokens = self.loaded.tokenizer.encode([i.text for i in inputs], [i.text_pair for i in inputs])
        for position, item in enumerate(tokens):
            if not item:
                raise InvalidRequest(f"item {position} has no tokens: send a text that is not empty")
            if item.truncated and not truncate:
                raise TooManyTokens(
                    f"item {position} has more than the {self.manifest.max_length} tokens that "
                    f"{self.manifest.task}/{self.manifest.variant} takes: shorten it, or send truncate: true"
                )
        return tokens

    def logits(self, tokens: Sequence[Tokens]) -> Logits:
        """Logits `[inputs, labels]` of inputs that run as one batch; releases the GIL while it works."""
        return self.loaded.classifier.logits(tokens)


def scores(logits: Logits, problem_type: str, function_to_apply: FunctionToApply | None = None) -> Logits:
    """Scores `[inputs, labels]`, with the function that the problem type needs unless one is named."""
    if function_to_apply == "softmax":
        return softmax(logits)
    if function_to_apply == "sigmoid":
        return sigmoid(logits)
    if function_to_apply == "none":
        return logits
    return probabilities(logits, problem_type)
