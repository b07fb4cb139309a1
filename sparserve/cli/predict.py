"""The command `predict`: labels for a file of texts."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
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
            help="Texts: a CSV, TSV, JSON or Parquet file, or a folder or pattern of shards.", rich_help_panel=DATA
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

    The output is CSV: the columns of the input, the prediction and its score. A multi-label task has a score for each
    label, and predicts those of at least 0.5, separated by |. A model with one score has no prediction beside it. A row
    without text has neither.
    """
    with cli_errors():
        from sparserve.classifier import Classifier
        from sparserve.models.data.columns import choose_text_columns, read_options
        from sparserve.models.data.sources.source import read_split
        from sparserve.models.data.texts import row_texts
        from sparserve.models.files import write_atomically

        classifier = Classifier.load(store, task, variant)
        options = DataOptions(
            text_column=text_column,
            text_pair_column=text_pair_column,
            header=header,
            delimiter=delimiter,
            quote=quote,
            escape=escape,
            encoding=encoding,
        )
        with needs_extra("compress", user=f"reading {data.name}"):
            table = read_split(data, read_options(options))
        columns = choose_text_columns(table, data.name, options)
        for note in (*table.notes, *columns.notes):
            typer.echo(f"note: {note}", err=True)
        texts = row_texts(table, columns.text, data.name)
        pairs = None if columns.text_pair is None else row_texts(table, [columns.text_pair], data.name)
        answer = partial(classifier, overlong=overlong, aggregate=aggregate)
        text = _as_csv(table, classifier, _answers(answer, len(classifier.labels), texts, pairs), data.name)
        if output is None:
            write_utf8(text)
        else:
            write_atomically(output, text)
            bundle = classifier.bundle.manifest
            name = f"{bundle.task}/{bundle.variant}/{bundle.version}"
            typer.echo(f"{output}: {len(table):,} rows labelled by {name}", err=True)


def _as_csv(table: "Table", classifier: "Classifier", answers: Iterable["list[Prediction] | None"], source: str) -> str:
    several = classifier.bundle.manifest.problem_type == "multi_label_classification"
    one_score = classifier.bundle.manifest.one_score
    added = [SCORE]
    if not one_score:
        added = [PREDICTION, *([f"{SCORE} {label}" for label in classifier.labels] if several else [SCORE])]
    names = list(table.columns)
    taken = [name for name in added if name in names]
    if taken:
        raise InputError(f"{source} has a column {taken[0]!r}, which the output adds. Rename it.")
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
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
