"""Classification in this process, without a service."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self, get_args, overload

import numpy as np

from sparserve.models.bundle.bundle import Bundle, open_bundle
from sparserve.models.bundle.inference import (
    LoadedBundle,
    load_bundle,
    memory_batches,
    probabilities,
)
from sparserve.models.bundle.long_texts import OverlongText, all_windows, encode, window_counts
from sparserve.models.bundle.runtime_choice import (
    RuntimeChoice,
    RuntimeDecision,
    load_in_chosen_runtime,
    measure_runtimes,
)
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import Runtime
from sparserve.models.bundle.windows import TRUNCATE, Aggregate, LongTexts, Overlong, longest_stride, merge_windows
from sparserve.models.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """A label and its score.

    The score is the label's probability (softmax over the labels; sigmoid for multi-label tasks), as in Hugging Face's
    text-classification pipeline. For regression it is the value itself.
    """

    label: str
    score: float


class Classifier:
    """A bundle that classifies texts in this process.

        classify = Classifier.load("store", "my-reviews")
        classify(["a gorgeous, witty, seductive movie"])            # [Prediction(label="positive", score=0.99)]
        classify(["a gorgeous, witty, seductive movie"], top_k=2)   # the two best labels of each text

    It runs in the sparse runtime if the bundle was measured to be faster there and the runtime is available, else in
    ONNX Runtime. Where the job had other instruction sets, both are measured for a moment when it is loaded. Calls
    from several threads at once are allowed.
    """

    def __init__(self, loaded: LoadedBundle, decision: RuntimeDecision | None = None) -> None:
        self._loaded = loaded
        self._decision = decision

    @classmethod
    def load(
        cls,
        store: str | PathLike[str] | Store,
        task: str,
        variant: str | None = None,
        *,
        version: str | None = None,
        runtime: RuntimeChoice = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load a variant of a task from a store, by default the variant and version that answer for the task.

        Args:
            store: Folder of bundles.
            task: Name of the task.
            variant: Name of the variant. Default: the default variant of the task.
            version: Version of the variant. Default: the current one.
            runtime: "auto"; "onnx" for stock ONNX Runtime only; "sparse" to require the sparse runtime.
            threads: CPU threads. Default: all CPUs that this process may use.

        Raises:
            StoreError: the store has no such task, variant or version.
            BundleError: the bundle is damaged, or the sparse runtime is required and not available.
        """
        store = store if isinstance(store, Store) else Store(store)
        bundle = store.open(task, variant or store.default_variant(task), version)
        return cls.from_bundle(bundle, runtime=runtime, threads=threads)

    @classmethod
    def from_bundle(
        cls,
        bundle: str | PathLike[str] | Bundle,
        *,
        runtime: RuntimeChoice = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load a bundle, given as such or by its folder; `runtime` and `threads` as for `load`.

        Raises:
            BundleError: the bundle is damaged, or the sparse runtime is required and not available.
        """
        bundle = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))

        def load(one: Runtime) -> LoadedBundle:
            return load_bundle(bundle, threads=threads, runtime=one)

        return cls(*load_in_chosen_runtime(bundle.manifest, runtime, load, measure_runtimes))

    @property
    def bundle(self) -> Bundle:
        """The bundle, with its manifest."""
        return self._loaded.bundle

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(self.bundle.manifest.labels)

    @property
    def runtime(self) -> str:
        """Name of the runtime: "onnx" or "sparse"."""
        return self._loaded.runtime

    @property
    def runtime_decision(self) -> RuntimeDecision | None:
        """Reason for the runtime, and the seconds of a text in each; None if the bundle has a graph for one alone."""
        return self._decision

    @overload
    def __call__(
        self,
        texts: Sequence[str],
        *,
        text_pairs: Sequence[str | None] | None = None,
        batch_size: int = 32,
        overlong: Overlong | None = None,
        stride: int | None = None,
        aggregate: Aggregate | None = None,
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self,
        texts: Sequence[str],
        *,
        text_pairs: Sequence[str | None] | None = None,
        batch_size: int = 32,
        top_k: int,
        overlong: Overlong | None = None,
        stride: int | None = None,
        aggregate: Aggregate | None = None,
    ) -> list[list[Prediction]]: ...

    def __call__(
        self,
        texts: Sequence[str],
        *,
        text_pairs: Sequence[str | None] | None = None,
        batch_size: int = 32,
        top_k: int | None = None,
        overlong: Overlong | None = None,
        stride: int | None = None,
        aggregate: Aggregate | None = None,
    ) -> list[Prediction] | list[list[Prediction]]:
        """Classify texts, or pairs of texts.

        Returns the best label of each text. With `top_k`, returns a list of at most `top_k` labels for each text, the
        best first. Logs a warning if the model was trained on single texts and gets pairs, or the reverse.

        A text with more tokens than the model takes is cut ("truncate"), refused ("error") or answered in "windows", as
        `overlong` or else the bundle says. Windows share `stride` tokens; their scores are merged by `aggregate`:
        "mean", "max" or "first".

        Raises:
            InputError: `texts` is a single string, there is not one pair for each text, a text is too long, or several
                labels are asked of a model with one score.
        """
        if isinstance(texts, str):
            raise InputError("texts must be a list of strings, not a string: write classify([text])")
        if text_pairs is not None and len(text_pairs) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(text_pairs)} text_pairs: give one pair for each text")
        if batch_size < 1 or (top_k is not None and top_k < 1):
            raise InputError("batch_size and top_k must be at least 1")
        if self.bundle.manifest.one_score and top_k is not None and top_k > 1:
            name = f"{self.bundle.manifest.task}/{self.bundle.manifest.variant}"
            raise InputError(
                f"top_k is {top_k}, but {name} has one score for each text and no labels to choose from: leave "
                "top_k out"
            )
        mismatch = self.bundle.manifest.input_mismatch([None] * len(texts) if text_pairs is None else text_pairs)
        if mismatch is not None:
            logger.warning(mismatch)
        long_texts = self._long_texts(overlong, stride, aggregate)
        rows = list(self._scores(texts, text_pairs, batch_size, long_texts))
        ranked = [sorted(map(Prediction, self.labels, row), key=lambda one: -one.score) for row in rows]
        return [row[0] for row in ranked] if top_k is None else [row[:top_k] for row in ranked]

    def _long_texts(self, overlong: Overlong | None, stride: int | None, aggregate: Aggregate | None) -> LongTexts:
        default = self.bundle.manifest.long_texts or TRUNCATE
        for name, value, choices in (("overlong", overlong, Overlong), ("aggregate", aggregate, Aggregate)):
            if value is not None and value not in get_args(choices):
                raise InputError(f"{name} {value!r} is unknown: choose {', '.join(get_args(choices))}")
        longest = longest_stride(self.bundle.manifest.max_length)
        if stride is not None and not 0 <= stride <= longest:
            raise InputError(f"stride must be from 0 to {longest}, half of the tokens of a window")
        return LongTexts(
            overlong=overlong or default.overlong,
            stride=default.stride if stride is None else stride,
            aggregate=aggregate or default.aggregate,
        )

    def _scores(
        self, texts: Sequence[str], text_pairs: Sequence[str | None] | None, batch_size: int, long_texts: LongTexts
    ) -> Iterator[list[float]]:
        loaded, manifest = self._loaded, self.bundle.manifest
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            pairs = None if text_pairs is None else text_pairs[rows]
            try:
                tokens = encode(loaded.tokenizer, texts[rows], pairs, long_texts, model=manifest.task, first=start)
            except OverlongText as error:
                raise InputError(str(error)) from error
            windows = all_windows(tokens)
            batches = memory_batches(list(map(len, windows)), batch_size)
            logits = np.concatenate([loaded.classifier.logits(windows[batch]) for batch in batches])
            logits = merge_windows(logits, window_counts(tokens), manifest.problem_type, long_texts.aggregate)
            yield from probabilities(logits, manifest.problem_type).tolist()
