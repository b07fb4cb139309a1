"""POST /classify and /v1/classify: the protocol of vLLM and SGLang.

As there, a text with more tokens than the model takes is refused, unless the request or the task's bundle says
otherwise.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from sparserve.service.api.dialects.model_name import MODEL_DESCRIPTION, parse_model_name
from sparserve.service.api.long_texts import LongTextFields
from sparserve.service.api.schemas import Body, Texts
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_route import DirectRoute
from sparserve.service.http.problems import problems

router = APIRouter(route_class=DirectRoute, tags=["vllm and sglang"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


class VllmClassifyRequest(Body, LongTextFields):
    """Texts to classify."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "a warm, funny, engaging film"}]})

    input: Texts
    model: str | None = Field(None, description=MODEL_DESCRIPTION)
    truncate_prompt_tokens: Literal[-1] | None = Field(
        None, description='the same as overlong "truncate"; by default longer texts are refused'
    )


@dataclass(frozen=True, slots=True)
class ClassifiedText:
    """The best label of one text, and the scores of all labels."""

    index: int
    label: str
    probs: Annotated[list[float], Field(description="in the order of the labels in /v1/models")]
    num_classes: int


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that the model saw."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


@dataclass(frozen=True, slots=True)
class VllmClassifyAnswer:
    """The classified texts, in the order of the request."""

    id: str
    created: Annotated[int, Field(description="Unix time")]
    model: Annotated[str, Field(description="TASK/VARIANT that answered")]
    data: list[ClassifiedText]
    usage: TokenUsage
    object: Literal["list"] = "list"


@router.post("/v1/classify", responses=RESPONSES)
@router.post("/classify", responses=RESPONSES)
async def classify_in_vllm_shape(
    body: VllmClassifyRequest, service: ServiceDependency, options: OptionsDependency
) -> VllmClassifyAnswer:
    """Classify texts with the task or variant that `model` names."""
    task, variant = parse_model_name(service, body.model)
    long_texts = body.long_texts(True if body.truncate_prompt_tokens else None, fallback="error")
    result = await service.classify(task, variant, body.input, options, long_texts=long_texts)
    labels, tokens = result.engine.manifest.labels, sum(map(len, result.tokens))
    data = [
        ClassifiedText(index, labels[row.index(max(row))], row, len(labels))
        for index, row in enumerate(result.scores.tolist())
    ]
    return VllmClassifyAnswer(
        id=f"classify-{options.request_id}",
        created=int(time.time()),
        model=f"{task}/{result.engine.ref.variant}",
        data=data,
        usage=TokenUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
