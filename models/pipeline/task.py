"""The task of a job: its name, and what the store already holds under that name.

Two data sets may have one name, such as `a/train.csv` and `b/train.csv`. A service answers with a task's bundles by
its name, so the second set must not replace the first one's answers without a word.
"""

import re
import unicodedata
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sparserve.models.bundle.manifest import InputKind, Manifest, Name, ProblemType
from sparserve.models.bundle.store import Store
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.defaults import MOVIE_SENTENCES
from sparserve.models.data.sources.source import HUB, is_hub_id
from sparserve.models.data.sources.split_files import base_name, is_pattern
from sparserve.models.errors import BundleError, InputError, StoreError

DEFAULT_TASKS = {MOVIE_SENTENCES: "movie-sentiment"}
MAX_NAME_CHARACTERS = 64


def task_name(data: str, given: str | None) -> str:
    """Return the name of the task: the given one, or one that follows from the name of the data.

    Raises:
        InputError: the given name is not a name, or the data's name has letters that names cannot have.
    """
    name = given if given is not None else DEFAULT_TASKS.get(data) or _name_of(data)
    check_name(name, "task")
    return name


def check_name(name: str, what: str) -> None:
    """Check the name of a task or variant.

    Raises:
        InputError: it is not a name.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise InputError(
            f"{name!r} cannot be the name of a {what}: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit"
        ) from error


def check_labels(store: Store, task: str, dataset: Dataset, *, replace_labels: bool) -> list[str]:
    """Compare the data with a task that is already in the store; return notes for the user.

    Raises:
        InputError: the task has other labels and may not be replaced.
    """
    published = _published(store, task)
    kind = _kind(dataset.problem_type, dataset.label_names)
    for manifest in published:
        if set(manifest.labels) == set(dataset.label_names) and manifest.problem_type == dataset.problem_type:
            continue
        other = _kind(manifest.problem_type, manifest.labels)
        difference = (
            f"{task}/{manifest.variant} in {store.root} has the labels {_some(manifest.labels)} ({other}, made of "
            f"{manifest.lineage.data_source}), but this data has {_some(dataset.label_names)} ({kind})"
        )
        if not replace_labels:
            raise InputError(
                f"{difference}. Name the new task with --task, or use --replace-labels to publish other labels under "
                "this name."
            )
        return [f"{difference}; --replace-labels: variants of the same names are replaced, the others keep theirs"]
    if not published or any(manifest.lineage.data_digest == dataset.digest for manifest in published):
        return []
    kinds = {"pair": "pairs of texts", "single": "single texts"}
    inputs: InputKind = "pair" if dataset.pairs else "single"
    notes = [
        f"{task}/{manifest.variant} in {store.root} was trained on {kinds[manifest.inputs]}, but this data has "
        f"{kinds[inputs]}: use --task for another task"
        for manifest in published
        if manifest.inputs not in (None, inputs)
    ][:1]
    sources = ", ".join(dict.fromkeys(manifest.lineage.data_source for manifest in published))
    return [
        *notes,
        f"the task {task!r} is already in {store.root}, with the same labels but made of other rows or splits "
        f"({sources}): variants of the same names are replaced, also in a running service. Use --task for "
        "another task",
    ]


def _kind(problem_type: ProblemType, labels: tuple[str, ...]) -> str:
    if len(labels) == 1:
        return "one number" if problem_type == "regression" else "the relevance of a document to a query"
    return "multi-label" if problem_type == "multi_label_classification" else "single-label"


def _published(store: Store, task: str) -> list[Manifest]:
    manifests = []
    for variant in store.variants(task):
        try:
            manifests.append(store.open(task, variant, verify=False).manifest)
        except (BundleError, StoreError):
            continue  # a damaged bundle answers nobody
    return manifests


def _some(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")


def _name_of(data: str) -> str:
    path = Path(data)
    if is_hub_id(data):
        name = data.removeprefix(HUB).rpartition("/")[2]
    elif path.is_dir():
        name = path.resolve().name
    else:
        name = re.sub(r"[*?\[\]]+", "", base_name(path))
        if not name.strip("-_. ") and is_pattern(data):
            name = path.parent.resolve().name  # of a pattern such as `reviews/*.parquet`
    # An accent is lost without harm. Another alphabet is not: all names in it would become one.
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_NAME_CHARACTERS].strip("-")
    if not slug or any(c.isalnum() and not c.isascii() for c in plain):
        raise InputError(
            f"The name of {data!r} cannot be spelled with a-z and 0-9, as names of tasks are: name the task with --task"
        )
    return slug
