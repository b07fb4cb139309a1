"""Rerank documents for a query, in the shapes of text-embeddings-inference and of Cohere, Jina and many gateways.

A score is the sigmoid of the model's one logit, so it is between 0 and 1. The best document comes first; documents with
equal scores keep their order.
"""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from starlette.responses import Response

from sparserve.models.bundle.windows import Overlong
from sparserve.service.api.dialects.model_name import MODEL_DESCRIPTION, parse_model_name
from sparserve.service.api.schemas import Body, check_item_count
from sparserve.service.core import ServingCore
from sparserve.service.errors import EmptyRequest, InvalidRequest, TooLarge, TooManyTokens
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_body import PositiveInt
from sparserve.service.http.json_route import DirectRoute, JsonAnswer
from sparserve.service.http.problems import problems
from sparserve.service.inference.classification import Classification
from sparserve.service.types import FunctionToApply, LongTextOptions, RequestOptions, TextInput

router = APIRouter(route_class=DirectRoute, tags=["rerank"])
RESPONSES = problems(400, 404, 413, 415, 422, 429, 500, 503, 504)


def _texts_of(value: Any, info: ValidationInfo) -> list[str]:
    """Return documents, which are texts or objects with a text, as texts."""
    if not isinstance(value, list):
        raise ValueError("expected a list of documents")
    check_item_count(value, info)
    return [_text_of(item, position) for position, item in enumerate(value)]


def _text_of(item: Any, position: int) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise ValueError(f"document {position} is neither a text nor an object with a text")
    _check_unicode(text, f"document {position}")
    return text


def _query_of(value: Any) -> Any:
    if isinstance(value, str):
        _check_unicode(value, "the query")
    return value


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has a lone surrogate: send valid Unicode") from None


_TEXTS_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
_OBJECT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1}},
    "required": ["text"],
}
_DOCUMENTS_SCHEMA = {**_TEXTS_SCHEMA, "items": {"anyOf": [_TEXTS_SCHEMA["items"], _OBJECT_SCHEMA]}}
Query = Annotated[str, BeforeValidator(_query_of), WithJsonSchema({"type": "string", "minLength": 1})]


class TeiRerankRequest(Body):
    """A query, and texts to rank for it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "a comedy", "texts": ["a warm, funny film", "a dull one"]}]}
    )

    query: Query
    texts: Annotated[list[str], BeforeValidator(_texts_of), WithJsonSchema(_TEXTS_SCHEMA)]
    truncate: bool | None = Field(None, description="true cuts pairs with more tokens than the model takes; else 413")
    truncation_direction: Literal["Right", "right"] = Field("Right", description="only the end of a text can be cut")
    raw_scores: bool = Field(False, description="return logits instead of scores")
    return_text: bool = Field(False, description="repeat the texts in the answer")


class RankedText(BaseModel):
    """One text and its score."""

    index: int
    score: float
    text: str | None = Field(None, description="absent unless the request asks for it")


class CohereRerankRequest(Body):
    """A query, and documents to rank for it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "a comedy", "documents": ["a warm, funny film", "a dull one"]}]}
    )

    query: Query
    documents: Annotated[list[str], BeforeValidator(_texts_of), WithJsonSchema(_DOCUMENTS_SCHEMA)]
    model: str | None = Field(None, description=MODEL_DESCRIPTION)
    top_n: PositiveInt | None = Field(None, description="number of documents to return; by default all")
    return_documents: bool | None = Field(None, description="repeat the texts of the documents in the answer")
    max_tokens_per_doc: PositiveInt | None = Field(
        None, description="at least the tokens that the model takes for query and document together, where both are cut"
    )


class RankedDocumentText(BaseModel):
    """The text of a document."""

    text: str


class RankedDocument(BaseModel):
    """One document and its score."""

    index: int
    relevance_score: float
    document: RankedDocumentText | None = Field(None, description="absent unless the request asks for it")


class CohereRerankAnswer(BaseModel):
    """The documents, the most relevant first."""

    id: str
    model: str = Field(description="TASK/VARIANT that answered")
    results: list[RankedDocument]
    meta: dict[str, Any] = Field(description="the version of the protocol, and the tokens that the model saw")


@router.post("/rerank", response_model=list[RankedText], responses=RESPONSES)
async def rerank(body: TeiRerankRequest, service: ServiceDependency, options: OptionsDependency) -> Response:
    """Rank texts with the only task's default variant."""
    task, _ = parse_model_name(service, None, way_out="send to /tei/TASK/rerank")
    return await _rerank(service, task, None, body, options)


@router.post("/tei/{task}/rerank", response_model=list[RankedText], responses=RESPONSES)
async def rerank_with_default_variant(
    task: str, body: TeiRerankRequest, service: ServiceDependency, options: OptionsDependency
) -> Response:
    """Rank texts with a task's default variant."""
    return await _rerank(service, task, None, body, options)


@router.post("/tei/{task}/{variant}/rerank", response_model=list[RankedText], responses=RESPONSES)
async def rerank_with_variant(
    task: str, variant: str, body: TeiRerankRequest, service: ServiceDependency, options: OptionsDependency
) -> Response:
    """Rank texts with one variant of a task."""
    return await _rerank(service, task, variant, body, options)


@router.post("/v2/rerank", response_model=CohereRerankAnswer, responses=RESPONSES)
@router.post("/v1/rerank", response_model=CohereRerankAnswer, responses=RESPONSES)
async def rerank_in_cohere_shape(
    body: CohereRerankRequest, service: ServiceDependency, options: OptionsDependency
) -> Response:
    """Rank documents with the task or variant that `model` names."""
    task, variant = parse_model_name(service, body.model)
    longest = service.catalog.engine(task, variant).manifest.max_length
    if body.max_tokens_per_doc is not None and body.max_tokens_per_doc < longest:
        raise InvalidRequest(
            f"max_tokens_per_doc is {body.max_tokens_per_doc}, but {task} cuts query and document at {longest} tokens "
            "together: leave it out, or send that number or more"
        )
    result = await _classify(service, task, variant, body.query, body.documents, options, "truncate")
    results: list[dict[str, Any]] = []
    for index, score in _best_first(result, "sigmoid")[: body.top_n]:
        results.append({"index": index, "relevance_score": score})
        if body.return_documents:
            results[-1]["document"] = {"text": body.documents[index]}
    answer = {
        "id": options.request_id or "",
        "model": f"{task}/{result.engine.ref.variant}",
        "results": results,
        "meta": {
            "api_version": {"version": "1"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": sum(map(len, result.tokens))},
        },
    }
    return JsonAnswer(orjson.dumps(answer), result.timings())


async def _rerank(
    service: ServingCore, task: str, variant: str | None, body: TeiRerankRequest, options: RequestOptions
) -> Response:
    try:
        overlong: Overlong = "truncate" if body.truncate else "error"
        result = await _classify(service, task, variant, body.query, body.texts, options, overlong)
    except TooManyTokens as error:
        raise TooLarge(str(error)) from error
    ranked: list[dict[str, Any]] = []
    for index, score in _best_first(result, "none" if body.raw_scores else "sigmoid"):
        ranked.append({"index": index, "score": score})
        if body.return_text:
            ranked[-1]["text"] = body.texts[index]
    return JsonAnswer(orjson.dumps(ranked), result.timings())


async def _classify(
    service: ServingCore,
    task: str,
    variant: str | None,
    query: str,
    documents: list[str],
    options: RequestOptions,
    overlong: Overlong,
) -> Classification:
    """Run the pairs of a query and its documents.

    Raises:
        EmptyRequest: the query or a document is empty, or there are no documents.
        TooLarge: the query, once for each document, and the documents have more characters than a body has bytes.
        InvalidRequest: the model has labels, not one score.
    """
    if not query:
        raise EmptyRequest("the query is empty: send a text")
    if not documents:
        raise EmptyRequest("there are no documents to rank: send at least one")
    if "" in documents:
        raise EmptyRequest(f"document {documents.index('')} is empty: send a text")
    engine = service.catalog.engine(task, variant)
    if not engine.manifest.one_score:
        raise InvalidRequest(
            f"{task}/{engine.ref.variant} is a classifier of {len(engine.manifest.labels)} labels and cannot rank "
            f"documents, which needs a model with one score: send to /v1/models/{task}/classify"
        )
    # The body has the query once, but it is tokenised with each document.
    characters = len(query) * len(documents) + sum(map(len, documents))
    if characters > (limit := service.settings.max_body_bytes):
        raise TooLarge(
            f"the {len(documents)} documents have {characters} characters, with the query for each of them, and the "
            f"limit is {limit} (max_body_bytes): shorten the query, or send the documents in parts"
        )
    inputs = [TextInput(text=query, text_pair=document) for document in documents]
    return await service.classify(task, variant, inputs, options, long_texts=LongTextOptions(overlong))


def _best_first(result: Classification, function_to_apply: FunctionToApply) -> list[tuple[int, float]]:
    """Return the index and the score of each document, the best first."""
    ranked = result.predictions(function_to_apply=function_to_apply)
    scores = [row[0].score for row in ranked]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    return [(index, scores[index]) for index in order]
