"""The calls of the Open Inference Protocol v2, for REST and gRPC: a model is a task, its versions are the variants.

Inputs: `text`, and `text_pair` for tasks of pairs, BYTES [n] or [n, 1]. Outputs: `label`, the best one, BYTES [n];
`score`, its score, FP32 [n]; `scores` of all labels, FP32 [n, labels]. With the parameter `classification` k an output
is BYTES [n, k] of "score:index:label", best first. The parameters `overlong`, `stride` and `aggregate` of a request are
those of the native API.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sparserve.service.api.dialects.open_inference_codec import InferRequest, RequestedOutput, Tensor
from sparserve.service.core import ServingCore
from sparserve.service.errors import InvalidRequest
from sparserve.service.inference.classification import Classification
from sparserve.service.types import RequestOptions, TextInput
from sparserve.service.version import VERSION

EXTENSIONS: Final = ("binary_tensor_data", "classification", "model_repository")
INPUTS: Final = ("text", "text_pair")
OUTPUTS: Final = ("label", "score", "scores")


@dataclass(frozen=True)
class Inference:
    """Answer to an inference request; `binary` names the outputs whose data the client wants in binary form."""

    model_name: str
    model_version: str
    id: str | None
    outputs: list[Tensor]
    binary: frozenset[str]


def server_metadata() -> dict[str, Any]:
    """Return name, version and extensions of the server."""
    return {"name": "sparserve", "version": VERSION, "extensions": list(EXTENSIONS)}


def model_metadata(core: ServingCore, task: str, variant: str | None) -> dict[str, Any]:
    """Return the inputs and outputs of a model.

    Raises:
        UnknownResource, Unavailable: as in `Catalog.engine`.
    """
    engine = core.catalog.engine(task, variant)
    labels = len(engine.manifest.labels)
    return {
        "name": task,
        "versions": core.catalog.snapshot.variants(task),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in INPUTS],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, labels]},
        ],
    }


def model_ready(core: ServingCore, task: str, variant: str | None) -> dict[str, Any]:
    """Return the name and version of a model that can answer.

    Raises:
        UnknownResource, Unavailable: it cannot.
    """
    engine = core.catalog.engine(task, variant)
    engine.check_health()
    return {"name": task, "version": engine.manifest.variant, "ready": True}


def repository_index(core: ServingCore) -> list[dict[str, str]]:
    """Return every model and version with its state."""
    snapshot = core.catalog.snapshot
    index = []
    for task in snapshot.tasks():
        for variant in snapshot.variants(task):
            key, state = (task, variant), {"state": "READY", "reason": ""}
            if key not in snapshot.engines and (refusal := snapshot.refused.get(key)):
                state = {"state": "UNAVAILABLE", "reason": refusal.reason}
            elif key in snapshot.unloaded:
                state = {"state": "UNAVAILABLE", "reason": "unloaded"}
            elif key in snapshot.loading:
                state = {"state": "LOADING", "reason": ""}
            index.append({"name": task, "version": variant, **state})
        if not snapshot.variants(task):
            reason = snapshot.refused_tasks.get(task, "")
            index.append({"name": task, "version": "", "state": "UNAVAILABLE", "reason": reason})
    return index


async def infer(
    core: ServingCore,
    task: str,
    variant: str | None,
    request: InferRequest,
    texts: dict[str, list[str]],
    options: RequestOptions,
) -> Inference:
    """Classify the `texts` of a request, by input name.

    Raises:
        InvalidRequest: an input or output does not exist.
        ServiceError: as in `ServingCore.classify`.
    """
    outputs = request.outputs or [RequestedOutput(name=name) for name in OUTPUTS]
    for output in outputs:
        if output.name not in OUTPUTS:
            raise InvalidRequest(f"there is no output {output.name!r}; the outputs are {', '.join(OUTPUTS)}")
    if request.parameters.timeout is not None:
        options = options.within(request.parameters.timeout / 1e6)
    long_texts = request.parameters.long_texts()
    result = await core.classify(task, variant, _inputs(texts), options, long_texts=long_texts)
    all_binary = bool(request.parameters.binary_data_output)
    binary = [
        output.name
        for output in outputs
        if (all_binary if output.parameters.binary_data is None else output.parameters.binary_data)
    ]
    return Inference(task, result.engine.manifest.variant, request.id, _tensors(result, outputs), frozenset(binary))


def _inputs(texts: dict[str, list[str]]) -> list[TextInput]:
    if "text" not in texts or texts.keys() - set(INPUTS):
        raise InvalidRequest("send the input text, and text_pair for pairs of texts, and no other")
    pairs: Sequence[str | None] = texts.get("text_pair") or [None] * len(texts["text"])
    if len(pairs) != len(texts["text"]):
        raise InvalidRequest(f"text has {len(texts['text'])} elements and text_pair {len(pairs)}")
    return [TextInput(text=text, text_pair=pair) for text, pair in zip(texts["text"], pairs, strict=True)]


def _tensors(result: Classification, outputs: Sequence[RequestedOutput]) -> list[Tensor]:
    labels = result.engine.manifest.labels
    index = {label: position for position, label in enumerate(labels)}
    rows = result.predictions()
    tensors = []
    for output in outputs:
        count = output.parameters.classification
        shape, datatype = [len(rows)], "BYTES"
        data: list[Any]
        if count is not None:
            data = [f"{one.score:f}:{index[one.label]}:{one.label}" for row in rows for one in row[:count]]
            shape.append(min(count, len(labels)))
        elif output.name == "label":
            data = [row[0].label for row in rows]
        elif output.name == "score":
            data, datatype = [row[0].score for row in rows], "FP32"
        else:
            by_label = [{one.label: one.score for one in row} for row in rows]
            data, datatype = [row[label] for row in by_label for label in labels], "FP32"
            shape.append(len(labels))
        tensors.append(Tensor(name=output.name, datatype=datatype, shape=shape, data=data))
    return tensors
