"""OpenAI's own client against /v1/moderations and /v1/models."""

from collections.abc import Iterator

import openai
import pytest

from sparserve.models.bundle.store import Store
from tests.support.service.fixtures import NewApp
from tests.support.service.listening import listening
from tests.support.tiny_bundles import TASK, graph, publish

TOPICS = ("spam", "insult", "threat")


@pytest.fixture(scope="module")
def client(module_store: Store, new_app: NewApp) -> Iterator[openai.OpenAI]:
    """A service whose tasks have one label per text, with safe ones, without, and several labels per text."""
    publish(module_store, task="other")
    publish(module_store, task="wrong")
    problem = {"labels": TOPICS, "problem_type": "multi_label_classification"}
    publish(module_store, task="topics", model=graph(3), **problem)
    publish(
        module_store, task="search", model=graph(1), inputs="pair", labels=("relevance",),
        problem_type="multi_label_classification",
    )  # fmt: skip
    safe = {TASK: ["negative"], "wrong": ["fine"]}
    app = new_app(store=module_store.root, moderation_safe_labels=safe)
    with listening(app) as address, openai.OpenAI(base_url=f"http://{address}/v1", api_key="none") as client:
        yield client


def test_openai_client_lists_the_tasks(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [TASK, "other", "search", "topics", "wrong"]
    assert {model.object for model in models} == {"model"}


def test_moderation_flags_texts_whose_label_is_not_safe(client: openai.OpenAI) -> None:
    texts = ["good", "bad", "fun", "dull", "film"]
    answer = client.moderations.create(input=texts, model=f"{TASK}/sparse90")
    assert answer.model == f"{TASK}/sparse90"
    assert {result.flagged for result in answer.results} == {True, False}
    for result in answer.results:
        scores = result.category_scores.model_dump(exclude_unset=True)
        assert scores.keys() == {"positive"}
        assert result.flagged == (scores["positive"] > 0.5)
        assert result.categories.model_dump(exclude_unset=True) == {"positive": result.flagged}
        assert result.category_applied_input_types.model_dump(exclude_unset=True) == {"positive": ["text"]}


def test_moderation_of_several_labels_needs_no_safe_ones(client: openai.OpenAI) -> None:
    (result,) = client.moderations.create(input="good bad fun", model="topics").results
    scores = result.category_scores.model_dump(exclude_unset=True)
    assert scores.keys() == set(TOPICS)
    categories = result.categories.model_dump(exclude_unset=True)
    assert categories == {label: score >= 0.5 for label, score in scores.items()}
    assert result.flagged == any(categories.values())


@pytest.mark.parametrize(
    ("model", "text", "error", "message"),
    [
        ("other", "good", openai.UnprocessableEntityError, "other gives every text .* moderation_safe_labels"),
        ("wrong", "good", openai.UnprocessableEntityError, "moderation_safe_labels has fine for task wrong"),
        (TASK, "good " * 50, openai.UnprocessableEntityError, "item 0 has more than the 16 tokens"),
        ("search", "good", openai.UnprocessableEntityError, "search ranks documents for a query and has no labels"),
        ("none", "good", openai.NotFoundError, "there is no task 'none'"),
        (openai.omit, "good", openai.UnprocessableEntityError, "several tasks: name one as model"),
    ],
)
def test_moderation_is_refused_with_the_reason(
    client: openai.OpenAI, model: str | openai.Omit, text: str, error: type[openai.APIStatusError], message: str
) -> None:
    with pytest.raises(error, match=message):
        client.moderations.create(input=text, model=model)
