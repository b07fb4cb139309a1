"""Choice of the runtime of a bundle: by a setting, by the manifest, or by a short measurement on this machine.

The manifest has the runtime that was faster on the machine of the job. On a machine with other instruction sets it may
be the other one: ONNX Runtime's int8 is several times faster with AMX, for example. There both are measured when the
bundle is loaded.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from sparserve.kernels.library import Library
from sparserve.models.bundle.inference import LoadedBundle, sparse_library
from sparserve.models.bundle.manifest import LatencyPoint, Manifest
from sparserve.models.bundle.text_tokenizer import Tokens
from sparserve.models.bundle.variants import Runtime
from sparserve.models.cpus import instruction_sets
from sparserve.models.errors import BundleError

logger = logging.getLogger(__name__)

RuntimeChoice = Literal["auto", "onnx", "sparse"]
DecisionSource = Literal["setting", "manifest", "measured", "fallback"]

# Limit of a measurement at load, without the run that reaches it. A length that would not fit is left out.
MEASURE_SECONDS: Final = 0.5
MAX_ROUNDS: Final = 15
# A short measurement replaces the manifest's choice if the other runtime is faster by this factor.
MIN_GAIN: Final = 1.05
# Length of the texts to measure with if the manifest has no cells, and the text if it has no sample.
DEFAULT_LENGTH: Final = 32
DEFAULT_TEXT: Final = "a text to measure with"

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class RuntimeSeconds:
    """Seconds of one text in each runtime: the geometric mean over the lengths that were measured."""

    onnx: float
    sparse: float


@dataclass(frozen=True)
class RuntimeDecision:
    """The runtime of a loaded bundle that has a graph for each, and the reason for it.

    `source` is "setting" if it was asked for, "manifest" if the job measured it, "measured" if it was measured when the
    bundle was loaded, "fallback" if the sparse runtime cannot run the bundle here. `seconds` are those of the job or of
    the measurement, None for the other sources.
    """

    runtime: Runtime
    source: DecisionSource
    seconds: RuntimeSeconds | None = None


def expected_runtime(manifest: Manifest, choice: RuntimeChoice) -> Runtime:
    """Return the runtime for a bundle by its manifest, provided that it works and was measured on such a machine.

    "auto" is the sparse runtime if the bundle was measured to be faster there. A bundle without a packed graph always
    runs in ONNX Runtime.
    """
    if manifest.packed is None or choice == "onnx":
        return "onnx"
    measured = manifest.measurement.sparse if manifest.measurement else None
    return "sparse" if choice == "sparse" or (measured and measured.preferred) else "onnx"


def measured_elsewhere(manifest: Manifest) -> bool:
    """Return True if both runtimes were measured with other instruction sets than they use here, and both can run here.

    Compared are the kernels of the sparse runtime and, where the system lists them, the processor's instruction sets.
    """
    measurement, library = manifest.measurement, _library()
    if manifest.packed is None or measurement is None or measurement.sparse is None or library is None:
        return False
    listed = instruction_sets()
    other_processor = listed is not None and set(listed) != set(measurement.machine.isa)
    return other_processor or measurement.sparse.isa != library.isa


def possible_runtimes(manifest: Manifest, choice: RuntimeChoice) -> tuple[Runtime, ...]:
    """Return the runtime that a bundle gets here; both if a measurement at load will choose the faster one."""
    if choice == "auto" and measured_elsewhere(manifest):
        return "onnx", "sparse"
    if choice == "auto" and _library() is None:
        return ("onnx",)
    return (expected_runtime(manifest, choice),)


def load_in_chosen_runtime(
    manifest: Manifest,
    choice: RuntimeChoice,
    load: Callable[[Runtime], _Loaded],
    measure: Callable[[_Loaded, _Loaded], RuntimeSeconds] | None,
) -> tuple[_Loaded, RuntimeDecision | None]:
    """Load a bundle with `load` in the chosen runtime, and return it with the decision.

    The decision is None if there was nothing to choose. With "auto", a bundle that was measured with other instruction
    sets is loaded in both runtimes, and `measure` gets it in ONNX Runtime and in the sparse runtime. None for `measure`
    trusts the manifest. A bundle that cannot be loaded in the sparse runtime is loaded in ONNX Runtime, with a warning.

    Raises:
        BundleError: as raised by `load`, in the sparse runtime only if the choice requires it.
    """
    expected = expected_runtime(manifest, choice)
    if manifest.packed is None:
        return load(expected), None
    if choice != "auto":
        return load(expected), RuntimeDecision(expected, "setting")
    name = f"{manifest.task}/{manifest.variant}"
    by_manifest = RuntimeDecision(expected, "manifest", _manifest_seconds(manifest))
    elsewhere = measure is not None and measured_elsewhere(manifest)
    if expected == "onnx" and not elsewhere:
        return load("onnx"), by_manifest
    try:
        sparse = load("sparse")
    except BundleError as error:
        logger.warning("%s runs in stock ONNX Runtime: %s", name, error)
        return load("onnx"), RuntimeDecision("onnx", "fallback")
    if measure is None or not elsewhere:
        return sparse, by_manifest
    try:
        onnx = load("onnx")
        seconds = measure(onnx, sparse)
    except Exception as error:  # ONNX Runtime raises its own classes without a public common base
        logger.warning("%s was measured with other instruction sets, and cannot be measured here: %s", name, error)
        return (sparse if expected == "sparse" else load("onnx")), by_manifest
    decision = faster_runtime(seconds, expected)
    logger.info(
        "%s was measured with other instruction sets; here one text takes %.2f ms in stock ONNX Runtime and %.2f ms in "
        "the sparse runtime, so it runs in %s",
        name,
        1000 * seconds.onnx,
        1000 * seconds.sparse,
        "the sparse runtime" if decision.runtime == "sparse" else "stock ONNX Runtime",
    )
    return (sparse if decision.runtime == "sparse" else onnx), decision


def faster_runtime(seconds: RuntimeSeconds, expected: Runtime) -> RuntimeDecision:
    """Return the decision of a measurement: `expected`, the manifest's, unless the other is faster by `MIN_GAIN`."""
    gain = seconds.onnx / seconds.sparse if expected == "onnx" else seconds.sparse / seconds.onnx
    other: Runtime = "sparse" if expected == "onnx" else "onnx"
    return RuntimeDecision(other if gain > MIN_GAIN else expected, "measured", seconds)


def measure_runtimes(
    onnx: LoadedBundle, sparse: LoadedBundle, *, clock: Callable[[], float] = time.perf_counter
) -> RuntimeSeconds:
    """Measure a bundle in both runtimes for at most about `MEASURE_SECONDS`, and return the times of one text.

    The texts are the bundle's sample, repeated or cut to the lengths that the job measured, one at a time. Runs of the
    two runtimes alternate, and of each length the fastest run counts: another process can only make a run slower.
    """
    measurement = onnx.bundle.manifest.measurement
    lengths = sorted({point.length for point in measurement.latency}) if measurement else []
    batches = [[_sample_of_length(onnx, length)] for length in lengths or [DEFAULT_LENGTH]]
    best: dict[int, tuple[float, float]] = {}
    seconds_per_token = 0.0
    begin = clock()
    for classifier in (onnx.classifier, sparse.classifier):
        classifier.logits(batches[0])  # the first run of a session is slower
    now = clock()
    for index in itertools.chain.from_iterable(itertools.repeat(range(len(batches)), MAX_ROUNDS)):
        batch = batches[index]
        if best and now - begin + seconds_per_token * len(batch[0]) > MEASURE_SECONDS:
            break
        times = []
        for classifier in (onnx.classifier, sparse.classifier):
            started = clock()
            classifier.logits(batch)
            now = clock()
            times.append(max(now - started, 1e-9))
        first, second = best.get(index, (math.inf, math.inf))
        best[index] = min(first, times[0]), min(second, times[1])
        seconds_per_token = sum(times) / len(batch[0])
    return RuntimeSeconds(*map(_geometric_mean, zip(*best.values(), strict=True)))


def _library() -> Library | None:
    try:
        return sparse_library()
    except BundleError:
        return None


def _manifest_seconds(manifest: Manifest) -> RuntimeSeconds | None:
    """Return the seconds of one text that the job measured."""
    measurement = manifest.measurement
    if measurement is None or measurement.sparse is None or not (measurement.latency and measurement.sparse.latency):
        return None
    return RuntimeSeconds(_seconds_per_text(measurement.latency), _seconds_per_text(measurement.sparse.latency))


def _seconds_per_text(points: Sequence[LatencyPoint]) -> float:
    smallest = min(point.batch for point in points)
    return _geometric_mean(max(point.p50_seconds, 1e-9) / smallest for point in points if point.batch == smallest)


def _geometric_mean(values: Iterable[float]) -> float:
    logarithms = list(map(math.log, values))
    return math.exp(math.fsum(logarithms) / len(logarithms))


def _sample_of_length(loaded: LoadedBundle, length: int) -> Tokens:
    """Return the tokens of the bundle's sample, repeated or cut to `length`, as one text."""
    sample = loaded.bundle.manifest.sample
    texts = [answer.text for answer in sample] or [DEFAULT_TEXT]
    ids = [token for tokens in loaded.tokenizer.encode(texts) for token in tokens.ids]
    repeated = itertools.cycle(ids or [loaded.bundle.manifest.pad_token_id])
    return Tokens(list(itertools.islice(repeated, length)), None, truncated=False)
