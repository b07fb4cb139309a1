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
from sparserve.models.bundle.long_texts import (
    OverlongText,
    TokenizedInput,
    TooManyWindows,
    UnsuitableForWindows,
    WindowLimits,
    all_windows,
    encode,
)
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.runtime_choice import RuntimeDecision
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.variants import Runtime
from sparserve.models.bundle.windows import TRUNCATE, LongTexts, longest_stride
from sparserve.service.errors import InvalidRequest, ServiceError, TooLarge, TooManyTokens, Unavailable
from sparserve.service.inference.health import EngineHealth
from sparserve.service.inference.latency_model import LatencyModel
from sparserve.service.types import DEFAULT_LONG_TEXTS, FunctionToApply, LongTextOptions, ModelRef, TextInput

WARM_UP_TEXT: Final = "warm up"
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """A loaded bundle that has answered a warm-up request.

    `sample_difference` is the largest difference of a logit from the bundle's sample, None if it has no sample.
    `takes_pairs` is False if the graph rejects the second text of a pair. `runtime_decision`
    says why the bundle is in its runtime, None if it has a graph for one alone. `loaded_at` is Unix time.
    """

    loaded: LoadedBundle
    sample_difference: float | None = None
    takes_pairs: bool = True
    runtime_decision: RuntimeDecision | None = None
    health: EngineHealth = field(default_factory=EngineHealth, compare=False)
    latency: LatencyModel = field(default_factory=LatencyModel, compare=False)
    loaded_at: float = field(default_factory=time.time, compare=False)

    @cached_property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.loaded.bundle.manifest

    @cached_property
    def runtime(self) -> Runtime:
        """The runtime: "onnx" for stock ONNX Runtime, "sparse" for the sparse runtime inside it."""
        return self.loaded.runtime

    @cached_property
    def padding_costs(self) -> bool:
        """False for the sparse runtime, which skips padding from the embeddings on."""
        return self.runtime != "sparse"

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
    def tokenization(self) -> tuple[str, int, bool]:
        """Key of the tokenization: engines with equal keys turn an input into the same tokens, or refuse it."""
        return self.manifest.files[TOKENIZER].sha256, self.manifest.max_length, self.takes_pairs

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

    def long_texts(self, options: LongTextOptions) -> LongTexts:
        """Return the treatment of long texts: what a request asks for, else the bundle's default.

        Raises:
            InvalidRequest: the options contradict each other, or the stride is too large.
        """
        default = self.manifest.long_texts
        if options is DEFAULT_LONG_TEXTS:
            return default or TRUNCATE
        default = default or LongTexts(overlong=options.fallback)
        overlong = options.overlong or default.overlong
        if overlong != "windows":
            if options.stride is not None or options.aggregate is not None:
                raise InvalidRequest('stride and aggregate need windows: set "overlong" to "windows"')
            return LongTexts(overlong=overlong)
        stride = default.stride if options.stride is None else options.stride
        longest = longest_stride(self.manifest.max_length)
        if stride is not None and stride > longest:
            raise InvalidRequest(
                f"stride {stride} is more than half of the {self.manifest.max_length} tokens of a window: give at most "
                f"{longest}"
            )
        return LongTexts(overlong=overlong, stride=stride, aggregate=options.aggregate or default.aggregate)

    def tokenize(
        self, inputs: Sequence[TextInput], *, long_texts: LongTexts = TRUNCATE, limits: WindowLimits | None = None
    ) -> list[TokenizedInput]:
        """Return the tokens of each input.

        Raises:
            InvalidRequest: an input has no tokens, or is a pair that the graph rejects or that windows cannot split.
            TooManyTokens: an input is longer than the model's maximum length, and is to be refused then.
            TooLarge: there are more windows than `limits` allow.
        """
        name = f"{self.manifest.task}/{self.manifest.variant}"
        if not self.takes_pairs:
            for position, one in enumerate(inputs):
                if one.text_pair is not None:
                    raise InvalidRequest(
                        f"item {position} is a pair of texts, but {name} has no embedding for the token type of a "
                        "second text: send one text"
                    )
        texts, pairs = [one.text for one in inputs], [one.text_pair for one in inputs]
        try:
            tokens = encode(self.loaded.tokenizer, texts, pairs, long_texts, model=name, limits=limits)
        except OverlongText as error:
            raise _refusal(error) from error
        for position, item in enumerate(tokens):
            if not item:
                raise InvalidRequest(f"item {position} has no tokens: send a text that is not empty")
        return tokens

    def answers(self) -> bool:
        """Return True if the graph still answers a text of the bundle, so that a failure is the fault of an input."""
        text = self.manifest.sample[0].text if self.manifest.sample else WARM_UP_TEXT
        try:
            return bool(np.isfinite(self.logits(all_windows(self.tokenize([TextInput(text=text)])))).all())
        except Exception:  # ONNX Runtime raises its own classes without a public common base
            return False

    def logits(self, tokens: Sequence[Tokens]) -> Logits:
        """Return the logits `[inputs, labels]` of one batch; releases the GIL while it runs."""
        return self.loaded.classifier.logits(tokens)


def _refusal(error: OverlongText) -> ServiceError:
    match error:
        case TooManyWindows():
            return TooLarge(str(error))
        case UnsuitableForWindows():
            return InvalidRequest(str(error))
    return TooManyTokens(str(error))


def scores(logits: Logits, problem_type: str, function_to_apply: FunctionToApply | None = None) -> Logits:
    """Return the scores `[inputs, labels]`; the function defaults to the one of the problem type."""
    if function_to_apply == "softmax":
        return softmax(logits)
    if function_to_apply == "sigmoid":
        return sigmoid(logits)
    if function_to_apply == "none":
        return logits
    return probabilities(logits, problem_type)
