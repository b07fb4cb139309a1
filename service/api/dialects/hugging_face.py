"""POST /hf/{task}[/{variant}]: Hugging Face's inference protocol, as `InferenceClient.text_classification` uses it.

The answer is a list of labels for each input, even for one input: the client silently misreads a flat list.
"""

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from sparserve.service.api.long_texts import LongTextFields
from sparserve.service.api.schemas import Body, Inputs
from sparserve.service.core import ServingCore
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_body import PositiveInt
from sparserve.service.http.json_route import DirectRoute
from sparserve.service.http.problems import problems
from sparserve.service.types import FunctionToApply, Prediction, RequestOptions

router = APIRouter(route_class=DirectRoute, tags=["hugging face"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


class Parameters(Body, LongTextFields):
    """The client's keyword arguments; null is the same as absent."""

    top_k: PositiveInt | None = Field(None, description="number of labels to return, best first; by default all")
    function_to_apply: FunctionToApply | None = Field(None, description="from logits to scores; by default the task's")
    truncation: bool | None = Field(
        None, description="true cuts a text with more tokens than the model takes, false refuses it"
    )


class InferenceRequest(Body):
    """One text, or several; `options` concern Hugging Face's own servers and are ignored."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a warm, funny, engaging film"}]})

    inputs: Inputs
    parameters: Parameters | None = None
    options: dict[str, Any] | None = None


@router.post("/hf/{task}", responses=RESPONSES)
async def infer_with_default_variant(
    task: str, body: InferenceRequest, service: ServiceDependency, options: OptionsDependency
) -> list[list[Prediction]]:
    """Classify texts with a task's default variant."""
    return await _infer(service, task, None, body, options)


@router.post("/hf/{task}/{variant}", responses=RESPONSES)
async def infer_with_variant(
    task: str, variant: str, body: InferenceRequest, service: ServiceDependency, options: OptionsDependency
) -> list[list[Prediction]]:
    """Classify texts with one variant of a task."""
    return await _infer(service, task, variant, body, options)


async def _infer(
    service: ServingCore, task: str, variant: str | None, body: InferenceRequest, options: RequestOptions
) -> list[list[Prediction]]:
    parameters = body.parameters or Parameters()
    long_texts = parameters.long_texts(parameters.truncation)
    result = await service.classify(task, variant, body.inputs, options, long_texts=long_texts)
    return result.predictions(top_k=parameters.top_k, function_to_apply=parameters.function_to_apply)
