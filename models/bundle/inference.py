"""A bundle's graph as a function from texts to logits.

The job evaluates and measures with this code and the service answers with it, so the report describes what is served.
It needs only numpy, tokenizers and onnxruntime.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from sparserve.kernels.library import Library, LibraryError, find_library
from sparserve.models.bundle.bundle import SPARSE_MODEL, TOKENIZER, Bundle, open_bundle
from sparserve.models.bundle.text_tokenizer import TextTokenizer, Tokens, load_tokenizer
from sparserve.models.bundle.variants import Runtime
from sparserve.models.cpus import available_cpus
from sparserve.models.errors import BundleError

# Tokens up to which a batch has as many inputs as are asked for.
FULL_BATCH_LENGTH: Final = 512


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return session options for CPUs in containers.

    Spinning is off, because it uses up the CPU quota. The CPU arena and memory patterns are off, because they never
    release the memory of varying shapes. The thread pool has `threads` threads, not one per CPU of the host. Errors are
    not printed, since each is an exception as well.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


class OnnxClassifier:
    """An onnxruntime session of a classifier's graph. A graph for the sparse runtime needs its `library`."""

    def __init__(self, path: Path, *, pad_token_id: int, threads: int, library: Path | None = None) -> None:
        try:
            options = session_options(threads)
            if library is not None:
                options.register_custom_ops_library(str(library))
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own classes without a public common base
            raise BundleError(f"{path} cannot be run by this onnxruntime: {error}") from error
        self.pad_token_id = pad_token_id
        self.input_names = frozenset(argument.name for argument in self.session.get_inputs())

    def pad(self, batch: Sequence[Tokens]) -> dict[str, npt.NDArray[np.int64]]:
        """Return the graph's inputs, each `[batch, length]`, padded to the longest."""
        lengths = [len(tokens.ids) for tokens in batch]
        count, shape = sum(lengths), (len(batch), max(lengths))
        used = np.arange(shape[1]) < np.array(lengths)[:, np.newaxis]
        ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        ids[used] = np.fromiter(chain.from_iterable([tokens.ids for tokens in batch]), np.int64, count)
        mask = used.astype(np.int64)
        type_ids = np.zeros(shape, dtype=np.int64)
        if "token_type_ids" in self.input_names and any(tokens.type_ids is not None for tokens in batch):
            rows = [tokens.type_ids or repeat(0, len(tokens.ids)) for tokens in batch]
            type_ids[used] = np.fromiter(chain.from_iterable(rows), np.int64, count)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}
        return {name: value for name, value in inputs.items() if name in self.input_names}

    def logits(self, batch: Sequence[Tokens]) -> npt.NDArray[np.float32]:
        """Return logits `[batch, labels]`. Releases the GIL."""
        return self.run(self.pad(batch))

    def run(self, inputs: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        """Return logits `[batch, labels]` of padded inputs. Releases the GIL."""
        (logits,) = self.session.run(["logits"], inputs)
        return np.asarray(logits, dtype=np.float32)


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle ready to run."""

    bundle: Bundle
    tokenizer: TextTokenizer
    classifier: OnnxClassifier
    runtime: Runtime


def memory_batches(lengths: Sequence[int], rows: int) -> Iterator[slice]:
    """Yield the slices of inputs, in order, that run as one batch: `rows` of them, or fewer if they are long.

    Attention in stock ONNX Runtime takes memory with the square of the length. A batch of n inputs, padded to L tokens,
    has n * L^2 of at most `rows` * `FULL_BATCH_LENGTH`^2, unless it is one input. `lengths` are in tokens.
    """
    begin, longest = 0, 0
    for end, length in enumerate(lengths):
        longest = max(longest, length)
        count = end - begin + 1
        if count > 1 and (count > rows or count * longest**2 > rows * FULL_BATCH_LENGTH**2):
            yield slice(begin, end)
            begin, longest = end, length
    if begin < len(lengths):
        yield slice(begin, len(lengths))


def load_bundle(
    bundle: Bundle | str | PathLike[str], *, threads: int | None = None, runtime: Runtime = "onnx"
) -> LoadedBundle:
    """Load the tokenizer of a bundle, and its graph for stock ONNX Runtime or for the sparse runtime.

    A bundle that is given by its folder is verified first. `threads` are CPU threads; by default all CPUs that this
    process may use.

    Raises:
        BundleError: one of them cannot be read, or the sparse runtime is not available here.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    manifest = bundle.manifest
    path, library = bundle.model_path, None
    if runtime == "sparse":
        path, library = sparse_model(bundle)
    return LoadedBundle(
        bundle,
        load_tokenizer(bundle.tokenizer_path, manifest.files[TOKENIZER].sha256, manifest.max_length),
        OnnxClassifier(path, pad_token_id=manifest.pad_token_id, threads=threads or available_cpus(), library=library),
        runtime,
    )


def sparse_library() -> Library:
    """Return the sparse runtime's library.

    Raises:
        BundleError: it is not available here.
    """
    try:
        return find_library()
    except LibraryError as error:
        raise BundleError(f"the sparse runtime is not available: {error}") from error


def sparse_model(bundle: Bundle) -> tuple[Path, Path]:
    """Return the bundle's graph for the sparse runtime, and the library that runs it.

    Raises:
        BundleError: the bundle has no such graph, the graph needs a newer library, or there is no library.
    """
    packed = bundle.manifest.packed
    if packed is None or SPARSE_MODEL not in bundle.manifest.files:
        raise BundleError(f"{bundle.folder} has no {SPARSE_MODEL}: compress the model again to make one")
    library = sparse_library()
    if packed.format_version > library.format_version:
        raise BundleError(
            f"{bundle.folder}: {SPARSE_MODEL} has format version {packed.format_version}, this library reads "
            f"{library.format_version}: upgrade sparserve"
        )
    return bundle.sparse_model_path, library.path


def probabilities(logits: npt.NDArray[np.float32], problem_type: str) -> npt.NDArray[np.float32]:
    """Return scores `[batch, labels]` as Hugging Face's text-classification pipeline computes them.

    Softmax for single-label tasks, sigmoid for multi-label ones or a single label, none for regression.
    """
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification" or logits.shape[-1] == 1:
        return sigmoid(logits)
    return softmax(logits)


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logistic function, elementwise, without overflow."""
    result: npt.NDArray[np.float32] = np.exp(-np.logaddexp(np.float32(0), -logits))
    return result


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax over the last axis, without overflow."""
    # `reduce` and not the methods of arrays, which take as long again for a few numbers.
    highest: npt.NDArray[np.float32] = np.maximum.reduce(logits, axis=-1, keepdims=True)
    result: npt.NDArray[np.float32] = np.exp(logits - highest)
    result /= np.add.reduce(result, axis=-1, keepdims=True)
    return result
