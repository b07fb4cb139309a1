"""The command `predict`: labels for a file of texts."""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparserve.cli.data_options import (
    DATA,
    DelimiterOption,
    EncodingOption,
    EscapeOption,
    HeaderOption,
    QuoteOption,
    TextColumnOption,
    TextPairColumnOption,
)
from sparserve.cli.options import DEFAULT_STORE, StoreOption, TaskArgument, cli_errors
from sparserve.cli.standard_output import write_utf8
from sparserve.extras import needs_extra
from sparserve.models.data.options import DataOptions
from sparserve.models.errors import InputError

if TYPE_CHECKING:
    from sparserve.classifier import Classifier, Prediction
    from sparserve.models.data.tables.table import Table

THRESHOLD = 0.5
PREDICTION, SCORE = "prediction", "score"


def add_commands(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command(rich_help_panel="Serve")(predict)


def predict(
    task: TaskArgument,
    data: Annotated[
        Path,
        typer.Option(
            help="Texts: a CSV, TSV, JSON or Parquet file, lines in a .txt file, or a folder or pattern of shards.",
            rich_help_panel=DATA,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="CSV file to write. Default: standard output.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Variant that answers. Default: the task's default.", show_default=False)
    ] = None,
    overlong: Annotated[
        str | None,
        typer.Option(
            help="Texts with more tokens than the model takes: truncate, error, or windows. Default: as the bundle "
            "says.",
            show_default=False,
        ),
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option(
            help="Scores of a text from those of its windows: mean, max, or first. Default: as the bundle says.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    text_column: TextColumnOption = None,
    text_pair_column: TextPairColumnOption = None,
    header: HeaderOption = None,
    delimiter: DelimiterOption = None,
    quote: QuoteOption = None,
    escape: EscapeOption = None,
    encoding: EncodingOption = None,
) -> None:
    """Label every text of a file with a finished model, without a service.

    The output is CSV: the columns of the input, the prediction and its score. Labels in the input are not read. A
    multi-label task has a score for each label, and predicts those of at least 0.5, separated by |. A model with one
    score has no prediction beside it. A row without text has neither.
    """
    with cli_errors():
        from sparserve.classifier import Classifier
        from sparserve.models.data.columns import choose_text_columns, read_options
        from sparserve.models.data.sources.source import read_split
        from sparserve.models.data.texts import row_texts
        from sparserve.models.files import write_atomically

        classifier = Classifier.load(store, task, variant)
        inputs = classifier.bundle.manifest.inputs
        options = DataOptions(
            text_column=text_column,
            text_pair_column="" if text_pair_column is None and inputs == "single" else text_pair_column,
            header=header,
            delimiter=delimiter,
            quote=quote,
            escape=escape,
            encoding=encoding,
        )
        with needs_extra("compress", user=f"reading {data.name}"):
            table = read_split(data, read_options(options, lines=True))
        columns = choose_text_columns(table, data.name, options)
        if inputs == "pair" and columns.text_pair is None and text_pair_column is None:
            raise InputError(
                f"{data.name} has no second text, but {task} was trained on pairs of texts. Columns: "
                f"{', '.join(table.columns)}. Choose one with --text-pair-column, or '' to do without."
            )
        added = _added_columns(classifier, table.columns)
        notes = [*table.notes, *columns.notes]
        if taken := [name for name in _added_columns(classifier) if name in table.columns]:
            notes.append(f"the file has a column {taken[0]!r}, so the output adds {', '.join(map(repr, added))}")
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        texts = row_texts(table, columns.text, data.name)
        pairs = None if columns.text_pair is None else row_texts(table, [columns.text_pair], data.name)
        answer = partial(classifier, overlong=overlong, aggregate=aggregate)
        text = _as_csv(table, added, classifier, _answers(answer, len(classifier.labels), texts, pairs))
        if output is None:
            write_utf8(text)
        else:
            write_atomically(output, text)
            bundle = classifier.bundle.manifest
            name = f"{bundle.task}/{bundle.variant}/{bundle.version}"
            typer.echo(f"{output}: {len(table):,} rows labelled by {name}", err=True)


def _added_columns(classifier: "Classifier", taken: Collection[str] = ()) -> list[str]:
    """Return the columns that the output adds; they are numbered if the file has one of these names."""
    manifest = classifier.bundle.manifest
    if manifest.one_score:
        names = [SCORE]
    elif manifest.problem_type == "multi_label_classification":
        names = [PREDICTION, *(f"{SCORE} {label}" for label in classifier.labels)]
    else:
        names = [PREDICTION, SCORE]
    number, added = 1, names
    while not set(added).isdisjoint(taken):
        number += 1
        added = [f"{name} {number}" for name in names]
    return added


def _as_csv(
    table: "Table", added: list[str], classifier: "Classifier", answers: Iterable["list[Prediction] | None"]
) -> str:
    several = classifier.bundle.manifest.problem_type == "multi_label_classification"
    names = list(table.columns)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *added])
    rows = zip(*(table.columns[name] for name in names), strict=True)
    for row, answer in zip(rows, answers, strict=True):
        writer.writerow([*map(_cell, row), *_fields(answer, classifier.labels, len(added), several=several)])
    return out.getvalue()


def _answers(
    classify: Callable[..., Any], labels: int, texts: list[str | None], pairs: list[str | None] | None
) -> Iterator["list[Prediction] | None"]:
    """Yield the labels of each row, the best first; None for a row without text."""
    rows = [row for row, text in enumerate(texts) if text and (pairs is None or pairs[row])]
    given = None if pairs is None else [pairs[row] for row in rows]
    ranked = iter(classify([texts[row] or "" for row in rows], text_pairs=given, top_k=labels))
    usable = set(rows)
    return (next(ranked) if row in usable else None for row in range(len(texts)))


def _fields(answer: "list[Prediction] | None", labels: tuple[str, ...], count: int, *, several: bool) -> list[str]:
    if answer is None:
        return [""] * count
    if len(labels) == 1:
        return [f"{answer[0].score:.6g}"]
    if not several:
        return [answer[0].label, f"{answer[0].score:.6g}"]
    scores = {one.label: one.score for one in answer}
    chosen = [label for label in labels if scores[label] >= THRESHOLD]
    return ["|".join(chosen), *(f"{scores[label]:.6g}" for label in labels)]


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")  # Parquet files of old writers do not say that bytes are text
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict | bool) else str(value)
