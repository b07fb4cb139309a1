"""One loaded bundle: texts to tokens, tokens to logits, logits to scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.bundle import TOKENIZER
from models.manifest import Manifest
from models.runtime import LoadedBundle, Runtime, Tokens, probabilities, sigmoid, softmax
from service.errors import InferenceFailed, InvalidRequest
from service.schemas import FunctionToApply, ModelRef, TextInput

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """A bundle that has answered a warm-up request.

    `batch_tokens` bounds one run of the graph; `sample_difference` is the largest difference of a logit from the
    bundle's own sample, None where it has none.
    """

    loaded: LoadedBundle
    batch_tokens: int
    sample_difference: float | None = None

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.loaded.bundle.manifest

    @property
    def runtime(self) -> Runtime:
        """What runs it: "onnx", stock onnxruntime, or "sparse", the sparse runtime inside it."""
        return self.loaded.runtime

    @property
    def ref(self) -> ModelRef:
        """The exact bundle."""
        return ModelRef(task=self.manifest.task, variant=self.manifest.variant, version=self.manifest.version)

    @property
    def tokenization(self) -> tuple[str, int]:
        """Engines with equal ones turn a text into the same tokens."""
        return self.manifest.files[TOKENIZER].sha256, self.manifest.max_length

    def tokenize(self, inputs: Sequence[TextInput], *, truncate: bool = True) -> list[Tokens]:
        """Tokens of each input.

        Raises:
            InvalidRequest: an input has no tokens, or more than the model takes and `truncate` is off.
        """
        tokens = self.loaded.tokenizer.encode([i.text for i in inputs], [i.text_pair for i in inputs])
        for position, item in enumerate(tokens):
            if not item:
                raise InvalidRequest(f"item {position} has no tokens: send a text that is not empty")
            if item.truncated and not truncate:
                raise InvalidRequest(
                    f"item {position} has more than the {self.manifest.max_length} tokens that "
                    f"{self.manifest.task}/{self.manifest.variant} takes: shorten it, or send truncate: true"
                )
        return tokens

    def logits(self, tokens: Sequence[Tokens]) -> Logits:
        """Logits `[inputs, labels]` in the order of the inputs.

        Raises:
            InferenceFailed: the graph answered with numbers that are not finite.
        """
        result = np.empty((len(tokens), len(self.manifest.labels)), dtype=np.float32)
        for rows in sub_batches([len(item) for item in tokens], self.batch_tokens):
            result[rows] = self.loaded.classifier.logits([tokens[row] for row in rows])
        if not np.isfinite(result).all():
            raise InferenceFailed(
                f"{self.manifest.task}/{self.manifest.variant} answered with numbers that are not finite"
            )
        return result


def sub_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions in batches of similar lengths, each of at most `budget` tokens once padded to its longest.

    A single input over the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda position: lengths[position]):
        if batches and (len(batches[-1]) + 1) * lengths[position] <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def scores(logits: Logits, problem_type: str, function_to_apply: FunctionToApply | None = None) -> Logits:
    """Scores `[inputs, labels]`, with the function that the problem type needs unless one is named."""
    if function_to_apply == "softmax":
        return softmax(logits)
    if function_to_apply == "sigmoid":
        return sigmoid(logits)
    if function_to_apply == "none":
        return logits
    return probabilities(logits, problem_type)
