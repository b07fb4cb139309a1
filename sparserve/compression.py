"""Compression from Python: `compress` and `search`. The command line starts its jobs with the same options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

from sparserve.extras import needs_extra
from sparserve.goals import Goal, choose_recipe
from sparserve.models.data.options import DataOptions

if TYPE_CHECKING:
    from sparserve.models.pipeline.job import CompressOptions
    from sparserve.models.progress import Reporter
    from sparserve.models.report.schema import Report
    from sparserve.models.search.frontier import Point

DEFAULT_STORE: Final = Path("store")


class JobOptions(DataOptions, total=False):
    """Options of a job. Each has a default; `compress` describes them."""

    recipe: str | PathLike[str] | None
    goal: Goal | None
    overrides: Mapping[str, Any]
    model: str | PathLike[str] | None
    teacher: str | PathLike[str] | None
    task: str | None
    replace_labels: bool
    store: str | PathLike[str]
    work: str | PathLike[str] | None
    validation: str | PathLike[str] | None
    test: str | PathLike[str] | None
    unlabeled: str | PathLike[str] | None
    seed: int
    threads: int | None


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search that met its targets."""

    best: "Point"
    """The variant that answers for the task from now on, with its figures."""
    frontier: tuple["Point", ...]
    """The variants that no other variant beats in every figure, the most accurate first."""
    report: "Report"
    """Report on all variants of the task."""


def compress(
    data: str | PathLike[str], *, reporter: "Reporter | None" = None, **options: Unpack[JobOptions]
) -> "Report":
    """Fine-tune, compress, export, evaluate and measure a classifier; publish its bundles and return their report.

    A second call with the same arguments resumes an interrupted run and repeats nothing that is finished. In a script
    that `accelerate launch` or `torchrun` starts, the call returns in the main process only: the other processes help
    with the training and then exit.

    Args:
        data: Labelled text: a CSV, TSV, JSON or Parquet file, a folder of splits, a pattern of shards, or a Hub id.
        reporter: Receiver of progress. Default: progress bars on a terminal, plain lines elsewhere.
        **options: Any of the following.

            - `recipe`: a recipe file, or the name of a recipe that ships. Default: `sparsebert-best`.
            - `goal`: "balanced", "fastest", "smallest" or "no-training", in place of a recipe.
            - `overrides`: fields of the recipe to change, such as `{"pruning.sparsity": 0.9}`.
            - `model`: pre-trained checkpoint, a folder or a Hub id. Default: the teacher, else MiniLM-L6.
            - `teacher`: a checkpoint that is already fine-tuned; it is used as it is. With another network than
              `model`, of any architecture, the model learns its answers first.
            - `task`: name of the task in the store. Default: derived from `data`.
            - `replace_labels`: True if a task of this name in the store may get other labels. Default: False.
            - `store`: folder of bundles. Default: `store`.
            - `work`: folder of cached steps. Default: `.work` in the store.
            - `text_column`, `text_pair_column`, `label_column`: names of columns. Default: detected from the data.
              Several text columns are joined; several label columns hold 0 or 1 for one label each.
            - `label_separator`: separator of several labels in one row.
            - `label_map`: new names of labels of the data by the old ones, such as `{"0": "negative"}`.
            - `multi_label`: True if a row can have several labels. Default: detected from the data.
            - `head`: "labels", "number" (regression) or "relevance" (of a document to a query), learned from the label
              column. Default: detected from the data.
            - `header`: True if the first row names the columns. Default: detected from the data.
            - `delimiter`, `quote`, `escape`: characters of a CSV file. Default: detected from the data.
            - `encoding`: encoding of a text file. Default: UTF-8, or what its byte order mark says.
            - `validation`, `test`: files of these splits. Default: split off from `data`.
            - `unlabeled`: a file of more texts, without labels: the student learns the teacher's answers to them.
            - `seed`: random seed for splits, training and bootstrap intervals. Default: 0.
            - `threads`: CPU threads. Default: all CPUs that this process may use; training uses one while that is
              faster, beside other programs.

    Raises:
        SparserveError: the input is wrong, a package is missing or a step failed; see `sparserve.models.errors`.
    """
    with needs_extra("compress", user="sparserve.compress"):
        from sparserve.models.distributed import leading
        from sparserve.models.pipeline.job import prepare
        from sparserve.models.progress import make_reporter

    with leading():
        reporter = reporter or make_reporter(json_lines=False)
        return prepare(job_options(data, **options), reporter).execute(reporter)


def search(
    data: str | PathLike[str],
    *,
    targets: Sequence[str],
    recipes: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    reporter: "Reporter | None" = None,
    **options: Unpack[JobOptions],
) -> SearchResult:
    """Search recipes and compression levels for the best variant that meets all targets, and make it the default.

    Every trial is published, and a second call with the same arguments reuses the finished trials.

    Args:
        data: Labelled text, as for `compress`.
        targets: Limits such as "latency<=3ms@1x64" (batch x tokens), "size<=6MB" or "accuracy_drop<=1.0" (points).
        recipes: Recipes to search besides `recipe`. Default: four that ship; an empty list adds none.
        levels: Levels of `recipe` to search, such as `[0.8, 0.9]`. Default: chosen for its method.
        reporter: Receiver of progress. Default: progress bars on a terminal, plain lines elsewhere.
        **options: The options of `compress`.

    Raises:
        TargetError: no trial meets all targets; the message names the nearest one.
        SparserveError: the input is wrong, a package is missing or a step failed; see `sparserve.models.errors`.
    """
    with needs_extra("compress", user="sparserve.search"):
        from sparserve.models.distributed import leading
        from sparserve.models.progress import make_reporter
        from sparserve.models.report.builder import build_report
        from sparserve.models.search.session import SearchOptions, prepare_search, run_search

    with leading():
        reporter = reporter or make_reporter(json_lines=False)
        search_options = SearchOptions(
            targets=targets,
            recipes=None if recipes is None else ",".join(recipes),
            levels=None if levels is None else ",".join(map(str, levels)),
        )
        session = prepare_search(job_options(data, **options), search_options, reporter)
        frontier, best = run_search(session, reporter, console=None)
        prepared = session.prepared
        return SearchResult(best, tuple(frontier), build_report(prepared.store, prepared.plan.job.task))


def job_options(data: str | PathLike[str], **options: Unpack[JobOptions]) -> "CompressOptions":
    """Fill in the defaults of a job's options.

    Raises:
        InputError: both a recipe and a goal are given, or the goal is unknown.
    """
    from sparserve.models.pipeline.job import CompressOptions

    store = Path(options.get("store", DEFAULT_STORE))
    unlabeled = options.get("unlabeled")
    work, splits = options.get("work"), {"validation": options.get("validation"), "test": options.get("test")}
    return CompressOptions(
        recipe=choose_recipe(_text(options.get("recipe")), options.get("goal")),
        model=_text(options.get("model")),
        data=fspath(data),
        task=options.get("task"),
        teacher=_text(options.get("teacher")),
        overrides=options.get("overrides", {}),
        data_options=DataOptions(
            text_column=options.get("text_column"),
            text_pair_column=options.get("text_pair_column"),
            label_column=options.get("label_column"),
            label_separator=options.get("label_separator"),
            multi_label=options.get("multi_label"),
            head=options.get("head"),
            header=options.get("header"),
            delimiter=options.get("delimiter"),
            quote=options.get("quote"),
            escape=options.get("escape"),
            encoding=options.get("encoding"),
            label_map=options.get("label_map"),
        ),
        splits={name: Path(path) for name, path in splits.items() if path is not None},
        seed=options.get("seed", 0),
        threads=options.get("threads"),
        store=store,
        work=store / ".work" if work is None else Path(work),
        replace_labels=options.get("replace_labels", False),
        unlabeled=None if unlabeled is None else Path(unlabeled),
    )


def _text(path: str | PathLike[str] | None) -> str | None:
    return None if path is None else fspath(path)
