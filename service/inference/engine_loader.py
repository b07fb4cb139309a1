"""Load a bundle as an engine in the runtime that is faster on this machine, and warm it up."""

import logging
from dataclasses import replace
from typing import Final

import numpy as np

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.inference import load_bundle
from sparserve.models.bundle.long_texts import all_windows
from sparserve.models.bundle.runtime_choice import RuntimeChoice, RuntimeSeconds, load_in_chosen_runtime
from sparserve.models.bundle.variants import Runtime
from sparserve.models.errors import BundleError
from sparserve.service.inference.engine import WARM_UP_TEXT, Engine, Logits
from sparserve.service.inference.health import is_out_of_memory, run_within_memory
from sparserve.service.inference.runtime_measurement import RuntimeMeasurements
from sparserve.service.types import TextInput

logger = logging.getLogger(__name__)

# Int8 logits of the two runtimes differ because of rounding: ONNX Runtime quantises activations per tensor, the sparse
# runtime per token.
INT8_TOLERANCE: Final = 0.5


def load_engine(
    bundle: Bundle,
    *,
    threads: int,
    sample_tolerance: float,
    runtime: RuntimeChoice = "auto",
    measurements: RuntimeMeasurements | None = None,
) -> Engine:
    """Load a bundle and run it on its own sample.

    With `runtime="auto"` a bundle that was measured to be faster in the sparse runtime is served by it, if the library
    loads on this machine and reproduces the sample. Otherwise stock ONNX Runtime serves it, with one line in the log.
    With `runtime="sparse"` this is an error. A bundle that was measured with other instruction sets is measured in both
    runtimes for a moment, unless there are no `measurements`.

    Logs a warning if the logits of stock ONNX Runtime differ from those of the exporting machine by more than
    `sample_tolerance`: int8 rounds differently on different CPUs.

    Raises:
        BundleError: the graph or the tokenizer cannot be read, or the logits do not fit the labels.
    """

    def load(one: Runtime) -> Engine:
        return _load_sparse(bundle, threads, sample_tolerance) if one == "sparse" else _answer_sample(bundle, threads)

    def measure(onnx: Engine, sparse: Engine) -> RuntimeSeconds:
        assert measurements is not None
        return measurements.of(onnx.loaded, sparse.loaded)

    engine, decision = load_in_chosen_runtime(bundle.manifest, runtime, load, measure if measurements else None)
    difference = engine.sample_difference
    if engine.runtime == "onnx" and difference is not None and difference > sample_tolerance:
        logger.warning(
            "%s/%s: logits of the bundle's sample differ by %.4g on this machine (tolerance %.4g), so its report "
            "may not apply here",
            bundle.manifest.task,
            bundle.manifest.variant,
            difference,
            sample_tolerance,
        )
    return replace(engine, runtime_decision=decision)


def _load_sparse(bundle: Bundle, threads: int, sample_tolerance: float) -> Engine:
    engine = _answer_sample(bundle, threads, "sparse")
    int8 = bundle.manifest.packed is not None and bundle.manifest.packed.values == "int8"
    tolerance = max(sample_tolerance, INT8_TOLERANCE) if int8 else sample_tolerance
    if engine.sample_difference is not None and engine.sample_difference > tolerance:
        raise BundleError(
            f"logits of its sample differ by {engine.sample_difference:.4g} in the sparse runtime (tolerance "
            f"{tolerance:.4g})"
        )
    return engine


def _answer_sample(bundle: Bundle, threads: int, runtime: Runtime = "onnx") -> Engine:
    """Return an engine that has run the bundle's sample."""
    engine = Engine(load_bundle(bundle, threads=threads, runtime=runtime))
    manifest = bundle.manifest
    try:
        texts = [TextInput(text=answer.text) for answer in manifest.sample] or [TextInput(text=WARM_UP_TEXT)]
        # One at a time, like the exporter: int8 quantises the activations of a whole batch together.
        logits = np.concatenate([engine.logits([tokens]) for tokens in all_windows(engine.tokenize(texts))])
        if logits.shape[-1] != len(manifest.labels):
            raise BundleError(f"{logits.shape[-1]} logits for {len(manifest.labels)} labels")
        if not np.isfinite(logits).all():
            raise BundleError("numbers that are not finite")
        takes_pairs = _takes_pairs(engine)
        pair = all_windows(engine.tokenize([TextInput(text=WARM_UP_TEXT), TextInput(text=f"{WARM_UP_TEXT} both")]))
        together = run_within_memory(engine.logits, pair, lambda: None)
        if together.shape != (2, len(manifest.labels)):
            raise BundleError(f"{together.shape} logits for a batch of two")
    except Exception as error:  # ONNX Runtime raises its own classes without a public common base
        raise BundleError(f"{bundle.model_path} does not answer a warm-up request: {error}") from error
    if not manifest.sample:
        return Engine(engine.loaded, takes_pairs=takes_pairs)
    expected: Logits = np.array([answer.logits for answer in manifest.sample], dtype=np.float32)
    if expected.shape != logits.shape:
        raise BundleError(f"{bundle.folder}: its sample has {expected.shape} logits for {logits.shape} answers")
    difference = float(np.abs(logits - expected).max())
    return Engine(engine.loaded, difference, takes_pairs)


def _takes_pairs(engine: Engine) -> bool:
    """Return False if the graph rejects the token types of a pair, as that of a BERT with `type_vocab_size` 1 does.

    Requests with pairs would fail, and with them the other requests in their batches.
    """
    (pair,) = all_windows(engine.tokenize([TextInput(text=WARM_UP_TEXT, text_pair=WARM_UP_TEXT)]))
    if pair.type_ids is None or not any(pair.type_ids):
        return True
    try:
        engine.logits([pair])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return True
