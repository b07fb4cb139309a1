"""POST /v1/moderations: OpenAI's protocol. The categories are the labels of a task, except its safe ones.

The setting `moderation_safe_labels` says which labels are safe. A text is flagged if it has any other label: for
single-label tasks the best one, for multi-label tasks every one with a score of at least 0.5. A text with more tokens
than the model takes is refused, unless the request or the task's bundle says otherwise: what would be cut could be what
should be flagged.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from sparserve.models.bundle.manifest import Manifest
from sparserve.service.api.dialects.model_name import MODEL_DESCRIPTION, parse_model_name
from sparserve.service.api.long_texts import LongTextFields
from sparserve.service.api.schemas import Body, Texts
from sparserve.service.errors import InvalidRequest
from sparserve.service.http.dependencies import OptionsDependency, ServiceDependency
from sparserve.service.http.json_route import DirectRoute
from sparserve.service.http.problems import OpenAIProblem, problems
from sparserve.service.inference.classification import Classification

router = APIRouter(route_class=DirectRoute, tags=["openai moderations"])
MULTI_LABEL_THRESHOLD: Final = 0.5


class ModerationRequest(Body, LongTextFields):
    """Texts to moderate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "a warm, funny, engaging film"}]})

    input: Texts
    model: str | None = Field(None, description=MODEL_DESCRIPTION)


@dataclass(frozen=True, slots=True)
class Moderation:
    """The verdict on one text. Its categories are the labels that are not safe."""

    flagged: Annotated[bool, Field(description="true if any category is")]
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


@dataclass(frozen=True, slots=True)
class ModerationAnswer:
    """The verdicts, in the order of the texts."""

    id: str
    model: Annotated[str, Field(description="TASK/VARIANT that answered")]
    results: list[Moderation]


@router.post("/v1/moderations", responses=problems(400, 404, 413, 415, 422, 429, 500, 503, 504, model=OpenAIProblem))
async def moderate(body: ModerationRequest, service: ServiceDependency, options: OptionsDependency) -> ModerationAnswer:
    """Say which texts have a label that is not safe."""
    task, variant = parse_model_name(service, body.model)
    safe = frozenset(service.settings.moderation_safe_labels.get(task, ()))
    _check_safe_labels(service.catalog.engine(task, variant).manifest, safe)
    long_texts = body.long_texts(fallback="error")
    result = await service.classify(task, variant, body.input, options, long_texts=long_texts)
    return ModerationAnswer(
        id=f"modr-{options.request_id}", model=f"{task}/{result.engine.ref.variant}", results=_moderations(result, safe)
    )


def _check_safe_labels(manifest: Manifest, safe: frozenset[str]) -> None:
    """Refuse a task that cannot flag a text, or would flag every text.

    Raises:
        InvalidRequest: names the task and the setting.
    """
    task, labels = manifest.task, ", ".join(manifest.labels)
    if manifest.problem_type == "regression":
        raise InvalidRequest(
            f"task {task} predicts a number, not labels: it cannot moderate; name another task as model"
        )
    if manifest.one_score and manifest.inputs == "pair":
        raise InvalidRequest(
            f"task {task} ranks documents for a query and has no labels: it cannot moderate; name another task as model"
        )
    if unknown := safe.difference(manifest.labels):
        raise InvalidRequest(
            f"the setting moderation_safe_labels has {', '.join(sorted(unknown))} for task {task}, whose labels are "
            f"{labels}: correct the setting"
        )
    if not safe and _has_one_label_per_text(manifest):
        raise InvalidRequest(
            f"task {task} gives every text one of the labels {labels}: list those that mean nothing to flag in the "
            "setting moderation_safe_labels"
        )
    if len(safe) == len(manifest.labels):
        raise InvalidRequest(
            f"the setting moderation_safe_labels has every label of task {task}: leave out those that flag a text"
        )


def _has_one_label_per_text(manifest: Manifest) -> bool:
    return manifest.problem_type == "single_label_classification" and len(manifest.labels) > 1


def _moderations(result: Classification, safe: frozenset[str]) -> list[Moderation]:
    labels, moderations = result.engine.manifest.labels, []
    for row in result.scores.tolist():
        scores = {label: score for label, score in zip(labels, row, strict=True) if label not in safe}
        if _has_one_label_per_text(result.engine.manifest):
            best = labels[row.index(max(row))]
            categories = {label: label == best for label in scores}
        else:
            categories = {label: score >= MULTI_LABEL_THRESHOLD for label, score in scores.items()}
        types: dict[str, list[Literal["text"]]] = {label: ["text"] for label in scores}
        moderations.append(Moderation(any(categories.values()), categories, scores, types))
    return moderations
