"""Bodies of the service's own requests and answers. Seconds, bytes and fractions throughout."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from sparserve.models.bundle.manifest import InputKind
from sparserve.models.bundle.runtime_choice import DecisionSource
from sparserve.models.bundle.windows import LongTexts
from sparserve.service.api.long_texts import LongTextFields
from sparserve.service.experiments.comparison import ComparisonSummary, ItemComparison, VariantSummary
from sparserve.service.http.json_body import PositiveInt
from sparserve.service.limits import check_count
from sparserve.service.strict_model import StrictModel
from sparserve.service.types import FunctionToApply, ModelRef, Prediction, TextInput, Timings, Usage


def check_item_count(inputs: list[Any], info: ValidationInfo) -> None:
    """Refuse more inputs than the validation context's `max_items`, if it has one, before validating any of them.

    Raises:
        TooLarge: there are more.
    """
    if info.context is not None:
        check_count(len(inputs), info.context["max_items"])


def _as_list(inputs: Any, info: ValidationInfo) -> Any:
    """Return one text, a list of texts, an object or a list of objects as a list of objects."""
    if isinstance(inputs, (str, dict)):
        inputs = [inputs]
    if not isinstance(inputs, list):
        raise ValueError(f"expected a text, a list of texts or objects with text and text_pair, not {_kind(inputs)}")
    if not inputs:
        raise ValueError("the list is empty: send at least one text")
    check_item_count(inputs, info)
    # Report the first fault only: 10,000 wrong items must not make 10,000 messages.
    return [_as_object(item, position) for position, item in enumerate(inputs)]


def _as_object(item: Any, position: int) -> dict[str, str | None]:
    fields = {"text": item} if isinstance(item, str) else item
    if not isinstance(fields, dict):
        raise ValueError(f"item {position} is {_kind(item)}, not a text or an object with text and text_pair")
    if "text" not in fields:
        raise ValueError(f"item {position} has no text")
    if unknown := fields.keys() - {"text", "text_pair"}:
        raise ValueError(f"item {position} has {len(unknown)} fields besides text and text_pair")
    for name, value in fields.items():
        if name == "text_pair" and value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} of item {position} is {_kind(value)}, not a text")
        if not _is_unicode(value):
            raise ValueError(f"{name} of item {position} has a lone surrogate: send valid Unicode")
    return fields


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    kinds = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return kinds.get(type(value), "an object")


_INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "text_pair": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    "required": ["text"],
    "additionalProperties": False,
}
_INPUTS_SCHEMA: dict[str, Any] = {
    "title": "Inputs",
    "description": "a text, a list of texts, or objects with text and text_pair",
    "anyOf": [
        {"type": "string"},
        _INPUT_SCHEMA,
        {"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, _INPUT_SCHEMA]}},
    ],
}
Inputs = Annotated[list[TextInput], BeforeValidator(_as_list), WithJsonSchema(_INPUTS_SCHEMA)]


def _texts_as_list(inputs: Any, info: ValidationInfo) -> Any:
    """Return one text or a list of texts as a list of objects."""
    if isinstance(inputs, dict):
        raise ValueError("expected a text or a list of texts, not an object")
    if isinstance(inputs, list):
        check_item_count(inputs, info)
        for position, item in enumerate(inputs):
            if not isinstance(item, str):
                raise ValueError(f"item {position} is {_kind(item)}, not a text")
    return _as_list(inputs, info)


_TEXTS_SCHEMA: dict[str, Any] = {
    "title": "Texts",
    "description": "a text, or a list of texts",
    "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}],
}
Texts = Annotated[list[TextInput], BeforeValidator(_texts_as_list), WithJsonSchema(_TEXTS_SCHEMA)]


class Body(StrictModel):
    """A request body; values are not converted to other types."""

    model_config = ConfigDict(strict=True)


class ClassifyRequest(Body, LongTextFields):
    """Texts to classify, with the options of Hugging Face's text-classification pipeline."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a warm, funny, engaging film", "top_k": 2}]})

    inputs: Inputs
    top_k: PositiveInt | None = Field(1, description="number of labels to return, best first; null for all")
    function_to_apply: FunctionToApply | None = Field(
        None, description="function from logits to scores; by default the one that the task's problem type needs"
    )
    truncate: bool | None = Field(None, description='the same as overlong "truncate" (true) or "error" (false)')


class CompareRequest(Body, LongTextFields):
    """Texts to run through several variants of a task."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["a warm, funny, engaging film"]}]})

    inputs: Inputs
    variants: (
        Annotated[list[str], Field(min_length=2, max_length=16, json_schema_extra={"uniqueItems": True})] | None
    ) = Field(None, description="the first is the reference; by default dense and the task's default variant")
    truncate: bool | None = Field(None, description='the same as overlong "truncate" (true) or "error" (false)')


Warnings = Annotated[
    list[str],
    Field(
        description="reasons to doubt the answer, such as pairs of texts for a task of single texts; absent if "
        "there are none"
    ),
]


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """An answer without warnings."""

    model: ModelRef
    predictions: Annotated[list[list[Prediction]], Field(description="one list for each input, best first")]
    usage: list[Usage]
    timings: Timings


@dataclass(frozen=True, slots=True)
class ClassifyAnswer(ClassifyResult):
    """Predictions for each input, in the order of the inputs."""

    warnings: Warnings = field(default_factory=list)


class CompareAnswer(BaseModel):
    """The same inputs through several variants of a task."""

    task: str
    reference: str = Field(description="the variant that the others are compared with")
    summary: ComparisonSummary
    variants: list[VariantSummary]
    items: list[ItemComparison]
    timings: Timings
    warnings: Warnings = []


class MeasuredLatency(BaseModel):
    """Latency from the manifest, measured by the job on its machine."""

    p50_seconds: float = Field(description="median time of one batch")
    batch: int = Field(description="texts per batch")
    length: int = Field(description="tokens per text")
    threads: int
    cpu: str


class RuntimeChoiceFacts(BaseModel):
    """Reason for the runtime of a variant that has a graph for each."""

    source: DecisionSource = Field(
        description="setting: the setting `runtime`; manifest: it was faster where the job measured; measured: it was "
        "faster here, measured when it was loaded, because the manifest is from other instruction sets; fallback: the "
        "sparse runtime cannot run it here, and the log has the reason"
    )
    onnx_seconds: float | None = Field(
        description="of one text in stock onnxruntime, where it was measured: the geometric mean over several lengths"
    )
    sparse_seconds: float | None = Field(description="of one text in the sparse runtime")


class VariantFacts(BaseModel):
    """A variant in a list: enough to choose one."""

    variant: str
    version: str | None
    state: Literal["ready", "loading", "refused", "unloaded"]
    reason: str | None = Field(None, description="why the bundle was refused")
    runtime: Literal["onnx", "sparse"] | None = Field(
        None, description="onnx: stock onnxruntime; sparse: the sparse runtime inside onnxruntime"
    )
    runtime_choice: RuntimeChoiceFacts | None = Field(
        None, description="why it is served in that runtime; null if the bundle has a graph for one alone"
    )
    file: str | None = Field(None, description="name of the graph file that is served")
    file_bytes: int | None = Field(None, description="size of that file")
    latency: MeasuredLatency | None = Field(
        None, description="measured latency of that file in its runtime; null if the bundle was not measured"
    )
    precision: str | None = None
    encoder_sparsity: float | None = Field(None, description="fraction of zeros in the encoder's linear layers")
    encoder_nonzeros: int | None = Field(None, description="weights of those layers that are not zero")
    onnx_bytes: int | None = None
    onnx_zipped_bytes: int | None = None
    accuracy: float | None = None
    sample_difference: float | None = Field(
        None, description="largest difference of a logit here from the bundle's own sample"
    )


class VariantDetail(VariantFacts):
    """A variant with its manifest."""

    task: str
    default: bool = Field(description="true if it is the task's default")
    versions: list[str] = Field(description="versions in the store, in the order of their publication")
    manifest: dict[str, Any] | None = Field(
        description="manifest.json, without the zeros of each tensor; null if not loaded"
    )


class TaskFacts(BaseModel):
    """A task and its variants."""

    task: str
    default_variant: str | None
    labels: list[str]
    problem_type: str | None
    inputs: InputKind | None = Field(
        description="the task was trained on single texts or on pairs; null if its bundles do not say"
    )
    max_length: int | None = Field(description="tokens that the model takes")
    long_texts: LongTexts | None = Field(description="treatment of longer texts by default; null if none is served")
    variants: list[VariantFacts]


class RefusedBundle(BaseModel):
    """A bundle that is not served, and the reason. A task that is refused as a whole has no variant."""

    task: str
    variant: str | None
    version: str | None
    reason: str


class ListedModel(BaseModel):
    """A task as clients of OpenAI's API list it."""

    id: str = Field(description="the task, which requests name as model")
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time at which its default variant was loaded")
    owned_by: str = "sparserve"


class ModelList(BaseModel):
    """Everything in the store, and the same tasks in the shape of OpenAI's API."""

    models: list[TaskFacts]
    refused: list[RefusedBundle]
    object: Literal["list"] = "list"
    data: list[ListedModel] = Field(description="tasks whose default variant is served")


class ReportLink(BaseModel):
    """A task's report and its formats."""

    task: str
    url: str
    formats: list[str]


class ReportList(BaseModel):
    """The reports in the store."""

    reports: list[ReportLink]


class Health(BaseModel):
    """The answer of a probe."""

    status: Literal["live", "ready"]


class Info(BaseModel):
    """Versions, threads and limits of this process."""

    name: str
    version: str
    libraries: dict[str, str]
    threads: dict[str, int]
    limits: dict[str, int]
    shutdown: dict[str, float]
    sparse_runtime: str = Field(description="kernels that it uses here, or why it is not available")
    ready: bool
    reason: str | None
