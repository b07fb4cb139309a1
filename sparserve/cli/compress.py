"""Commands of the job: `compress`, `report` and `recipes`."""

import logging
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

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
from sparserve.cli.options import DEFAULT_STORE, StoreOption, TaskArgument, cli_errors, wide_console
from sparserve.cli.standard_output import write_utf8
from sparserve.compression import job_options
from sparserve.extras import needs_extra
from sparserve.goals import DEFAULT_RECIPE, RECIPES, Goal
from sparserve.models.data.options import Head
from sparserve.models.errors import InputError

DEFAULT_DATA: Final = "movie-sentences"
MODEL, RECIPE, SEARCH, RUN = "Model", "Recipe", "Search", "Run and output"
NEEDS_EXTRA: Final = 'Compress (needs the extra: pip install "sparserve\\[compress]")'


class ReportFormat(StrEnum):
    """Formats of a report."""

    table = "table"
    json = "json"
    markdown = "markdown"
    html = "html"


def add_commands(app: typer.Typer) -> None:
    """Add the commands to an app."""
    for command in (compress, report, recipes):
        app.command(rich_help_panel=NEEDS_EXTRA)(command)


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the name of a recipe that ships."""
    import sparserve.models

    folder = Path(sparserve.models.__path__[0]) / "recipes"
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem.startswith(incomplete))


def compress(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Recipe file, or the name of a recipe that ships; `sparserve recipes` lists them. "
            f"Default: {DEFAULT_RECIPE}.",
            show_default=False,
            autocompletion=complete_recipe,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled text: a CSV, TSV, JSON or Parquet file, a folder of splits, a pattern of shards, or a Hub "
            f"id. Default with a recipe or a goal: {DEFAULT_DATA}, the built-in data.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    text_column: TextColumnOption = None,
    text_pair_column: TextPairColumnOption = None,
    label_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of the label. Default: detected from the data (and printed). May be repeated: each column "
            "holds 0 or 1 for one label.",
            rich_help_panel=DATA,
        ),
    ] = None,
    label_separator: Annotated[
        str | None, typer.Option(help="Separator of several labels in one row.", rich_help_panel=DATA)
    ] = None,
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Rename a label of the data, such as 0=negative, or make it one with another. May be repeated.",
            rich_help_panel=DATA,
        ),
    ] = None,
    multi_label: Annotated[
        bool | None,
        typer.Option(help="A row can have several labels. Default: detected from the data.", rich_help_panel=DATA),
    ] = None,
    head: Annotated[
        Head | None,
        typer.Option(
            help="Kind of the label column: labels, a number (regression), or the relevance of a document, the second "
            "text, to a query. Default: detected from the data.",
            rich_help_panel=DATA,
        ),
    ] = None,
    header: HeaderOption = None,
    delimiter: DelimiterOption = None,
    quote: QuoteOption = None,
    escape: EscapeOption = None,
    encoding: EncodingOption = None,
    validation: Annotated[
        Path | None, typer.Option(help="File of the validation split. Default: split off.", rich_help_panel=DATA)
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="File of the test split. Default: split off.", rich_help_panel=DATA)
    ] = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option(
            help="File, folder or pattern of more texts, without labels: the student learns the teacher's answers to "
            "them.",
            rich_help_panel=DATA,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Name of the task in the store. Default: derived from the data.", rich_help_panel=DATA),
    ] = None,
    replace_labels: Annotated[
        bool,
        typer.Option(
            "--replace-labels",
            help="Publish into a task of the store that has other labels. Default: refused.",
            rich_help_panel=DATA,
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Pre-trained checkpoint: a folder or a Hub id. Default: the teacher, else MiniLM-L6.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint that is already fine-tuned; it is used as it is. The model learns the answers of another "
            "network, of any architecture. Default: fine-tuned from the model.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    goal: Annotated[
        Goal | None,
        typer.Option(
            help="Choose a recipe by its purpose, as the measured results recommend: "
            + ", ".join(f"{name} for {shipped}" for name, shipped in RECIPES.items())
            + ".",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Fraction of zeros, in place of the recipe's pruning.sparsity.", rich_help_panel=RECIPE),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Name of the variant, in place of the recipe's.", rich_help_panel=RECIPE)
    ] = None,
    set_field: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Override a field of the recipe, such as student.epochs=2. May be repeated.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help="Search for the best variant within a limit: latency<=3ms@1x64 (batch x tokens), size<=6MB or "
            "accuracy_drop<=1.0. May be repeated.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    search_recipes: Annotated[
        str | None,
        typer.Option(
            help="Recipes to search besides the recipe, such as demo,distilbert. Default: a few that ship.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    search_levels: Annotated[
        str | None,
        typer.Option(
            help="Levels of the recipe to search, such as 0.8,0.9. Default: chosen for its method.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    store: Annotated[
        Path, typer.Option(help="Folder of bundles.", envvar="SPARSERVE_STORE", rich_help_panel=RUN)
    ] = DEFAULT_STORE,
    work: Annotated[
        Path | None, typer.Option(help="Folder of cached steps. Default: STORE/.work.", rich_help_panel=RUN)
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed for splits, training and bootstrap intervals.",
            min=0,
            max=2**32 - 1,
            rich_help_panel=RUN,
        ),
    ] = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads. Default: all CPUs that this process may use; training uses one while that is faster, "
            "beside other programs.",
            min=1,
            rich_help_panel=RUN,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.", rich_help_panel=RUN)] = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for programs.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Fine-tune, compress, export, evaluate and measure a classifier; publish its bundles and their report.

    Run the same command again to resume after an interruption; finished steps are not repeated.

    To train on several GPUs, run `accelerate launch -m sparserve compress ...`.
    """
    _silence_libraries()
    with cli_errors():
        if data is None and recipe is None and goal is None:
            raise InputError(
                "Name the data: `sparserve compress --data reviews.csv`. "
                "To try the built-in data, name a recipe: `sparserve compress demo`."
            )
        with needs_extra("compress", user="sparserve compress"):
            from sparserve.models.distributed import idle_gpus, leading
            from sparserve.models.pipeline.job import prepare
            from sparserve.models.progress import make_reporter
            from sparserve.models.report.builder import terminal_table
            from sparserve.models.report.findings import warnings as report_warnings
            from sparserve.models.search.session import SearchOptions, prepare_search, run_search

        with leading():
            reporter = make_reporter(json_lines=json_lines)
            if advice := idle_gpus():
                reporter.say(advice)
            options = job_options(
                data or DEFAULT_DATA,
                recipe=recipe,
                goal=goal,
                overrides=_overrides(set_field or [], sparsity, variant),
                model=model,
                teacher=teacher,
                task=task,
                replace_labels=replace_labels,
                store=store,
                work=work,
                text_column=text_column,
                text_pair_column=text_pair_column,
                label_column=label_column,
                label_separator=label_separator,
                label_map=_label_map(label_map or []),
                multi_label=multi_label,
                head=head,
                header=header,
                delimiter=delimiter,
                quote=quote,
                escape=escape,
                encoding=encoding,
                validation=validation,
                test=test,
                unlabeled=unlabeled,
                seed=seed,
                threads=threads,
            )
            if target or search_recipes is not None or search_levels is not None:
                search = prepare_search(options, SearchOptions(target or [], search_recipes, search_levels), reporter)
                if dry_run:
                    search.print_plan(reporter)
                else:
                    run_search(search, reporter, None if json_lines else wide_console())
                return
            run = prepare(options, reporter)
            if dry_run:
                run.print_plan(reporter)
                return
            result = run.execute(reporter)
            if json_lines:
                reporter.result("report", result.model_dump(mode="json"))
            else:
                wide_console().print(terminal_table(result))
                reporter.say(f"Report: {run.store.report_path(result.task, 'html')}")
            for warning in report_warnings(result):
                reporter.say(f"Warning: {warning}")


def report(
    task: TaskArgument,
    store: StoreOption = DEFAULT_STORE,
    format: Annotated[ReportFormat, typer.Option(help="Format of the report.")] = ReportFormat.table,
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: standard output.", show_default=False)
    ] = None,
) -> None:
    """Print the report on a task: accuracy, size and latency of every current bundle."""
    with cli_errors():
        with needs_extra("compress", user="sparserve report"):
            from sparserve.models.bundle.store import Store
            from sparserve.models.files import write_atomically
            from sparserve.models.report.builder import build_report, terminal_table, to_html, to_markdown

        result = build_report(Store(store), task)
        if format is ReportFormat.table:
            console = wide_console()
            if output is None:
                console.print(terminal_table(result))
                return
            with console.capture() as capture:
                console.print(terminal_table(result))
            text = capture.get()
        elif format is ReportFormat.json:
            text = result.model_dump_json(indent=1) + "\n"
        else:
            text = to_markdown(result) if format is ReportFormat.markdown else to_html(result)
        if output is None:
            write_utf8(text)
        else:
            write_atomically(output, text)


def recipes() -> None:
    """List the recipes that ship, and the goals that stand for some of them."""
    with cli_errors():
        with needs_extra("compress", user="sparserve recipes"):
            from rich.table import Table

            from sparserve.models.recipes.loading import load_recipe, shipped_recipes

        goals = {shipped: goal for goal, shipped in RECIPES.items()}
        table = Table("recipe", "--goal", "variant", "description")
        for name in shipped_recipes():
            loaded = load_recipe(name)
            table.add_row(name, goals.get(name, ""), loaded.variant_name, loaded.description)
        wide_console().print(table)


def _overrides(fields: list[str], sparsity: float | None, variant: str | None) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for field in fields:
        name, separator, value = field.partition("=")
        if not separator or not name:
            raise InputError(f"--set {field}: write it as field=value, such as student.epochs=2")
        try:
            # Names are plain text: YAML would read `best{sparsity}` as a mapping.
            overrides[name] = value if name in ("name", "description", "variant") else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {field}: {value!r} is not YAML; quote it, as in {name}='\"...\"'") from error
    if sparsity is not None:
        overrides["pruning.sparsity"] = sparsity
    if variant is not None:
        overrides["variant"] = variant
    return overrides


def _label_map(renamings: list[str]) -> dict[str, str]:
    new_names: dict[str, str] = {}
    for renaming in renamings:
        old, separator, new = renaming.partition("=")
        if not separator or not old or not new:
            raise InputError(f"--label-map {renaming}: write it as old=new, such as 0=negative")
        if old in new_names:
            raise InputError(f"--label-map {renaming}: {old!r} has a new name already: give it once")
        new_names[old] = new
    return new_names


def _silence_libraries() -> None:
    """Hide the warnings of training libraries; their errors are still shown."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|onnxscript)\.")
    for name in ("torch", "transformers", "accelerate", "onnxscript", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
