"""Engine: one loaded bundle, from texts to tokens, to logits, to scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.inference import LoadedBundle, probabilities, sigmoid, softmax
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.variants import Runtime
from sparserve.service.errors import InvalidRequest, TooManyTokens, Unavailable
from sparserve.service.inference.health import EngineHealth
from sparserve.service.inference.latency_model import LatencyModel
from sparserve.service.types import FunctionToApply, ModelRef, TextInput

WARM_UP_TEXT: Final = "warm up"
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """A loaded bundle that has answered a warm-up request.

    `sample_difference` is the largest difference of a logit from the bundle's sample, None if it has no sample.
    `takes_pairs` is False if the graph rejects the second text of a pair. `loaded_at` is Unix time.
    """

    loaded: LoadedBundle
    sample_difference: float | None = None
    takes_pairs: bool = True
    health: EngineHealth = field(default_factory=EngineHealth, compare=False)
    latency: LatencyModel = field(default_factory=LatencyModel, compare=False)
    loaded_at: float = field(default_factory=time.time, compare=False)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.loaded.bundle.manifest

    @property
    def runtime(self) -> Runtime:
        """The runtime: "onnx" for stock ONNX Runtime, "sparse" for the sparse runtime inside it."""
        return self.loaded.runtime

    @property
    def graph_file(self) -> str:
        """Name of the served graph file in the bundle."""
        return SPARSE_MODEL if self.runtime == "sparse" else MODEL

    @property
    def graph_bytes(self) -> int:
        """Size of the served graph file."""
        return self.manifest.files[self.graph_file].bytes

    @cached_property
    def ref(self) -> ModelRef:
        """Task, variant and version of the bundle."""
        return ModelRef(task=self.manifest.task, variant=self.manifest.variant, version=self.manifest.version)

    @property
    def tokenization(self) -> tuple[str, int]:
        """Key of the tokenization: engines with equal keys turn a text into the same tokens."""
        return self.manifest.files[TOKENIZER].sha256, self.manifest.max_length

    def input_mismatch(self, inputs: Sequence[TextInput]) -> str | None:
        """Return a warning if some inputs are of another kind than the training data; see `Manifest.input_mismatch`."""
        return self.manifest.input_mismatch([one.text_pair for one in inputs])

    def check_health(self) -> None:
        """Check that the engine answers.

        Raises:
            Unavailable: its last batches failed.
        """
        if not self.health.healthy:
            raise Unavailable(
                f"{self.manifest.task}/{self.manifest.variant} is failing repeatedly and will be reloaded at the next "
                "store poll"
            )

    def tokenize(self, inputs: Sequence[TextInput], *, truncate: bool = True) -> list[Tokens]:
        """Return the tokens of each input.

        Raises:
            InvalidRequest: an input has no tokens, or is a pair that the graph rejects.
            TooManyTokens: an input is longer than the model's maximum length, and `truncate` is off.
        """
        if not self.takes_pairs:
            for position, one in enumerate(inputs):
                if one.text_pair is not None:
                    raise InvalidRequest(
                        f"item {position} is a pair of texts, but {self.manifest.task}/{self.manifest.variant} has no "
                        "embedding for the token type of a second text: send one text"
                    )
        tokens = self.loaded.tokenizer.encode([i.text for i in inputs], [i.text_pair for i in inputs])
        for position, item in enumerate(tokens):
            if not item:
                raise InvalidRequest(f"item {position} has no tokens: send a text that is not empty")
            if item.truncated and not truncate:
                raise TooManyTokens(
                    f"item {position} has more than the {self.manifest.max_length} tokens that "
                    f"{self.manifest.task}/{self.manifest.variant} accepts: shorten it, or send truncate: true"
                )
        return tokens

    def answers(self) -> bool:
        """Return True if the graph still answers a text of the bundle, so that a failure is the fault of an input."""
        text = self.manifest.sample[0].text if self.manifest.sample else WARM_UP_TEXT
        try:
            return bool(np.isfinite(self.logits(self.tokenize([TextInput(text=text)]))).all())
        except Exception:  # ONNX Runtime raises its own classes without a public common base
            return False

    def logits(self, tokens: Sequence[Tokens]) -> Logits:
        """Return the logits `[inputs, labels]` of one batch; releases the GIL while it runs."""
        return self.loaded.classifier.logits(tokens)


def scores(logits: Logits, problem_type: str, function_to_apply: FunctionToApply | None = None) -> Logits:
    """Return the scores `[inputs, labels]`; the function defaults to the one of the problem type."""
    if function_to_apply == "softmax":
        return softmax(logits)
    if function_to_apply == "sigmoid":
        return sigmoid(logits)
    if function_to_apply == "none":
        return logits
    return probabilities(logits, problem_type)
