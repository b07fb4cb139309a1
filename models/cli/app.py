"""The command line of the job: compress, report, bundles, recipes."""

import logging
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sparserve.models.cli.base_commands import base_command
from sparserve.models.cli.bundles import bundles_app
from sparserve.models.cli.options import DEFAULT_STORE, StoreOption, explained
from sparserve.models.errors import InputError

app = typer.Typer(
    name="sparserve",
    help="Make transformer text classifiers small and fast on CPUs, serve them, and prove what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bundles_app, name="bundles")

LOG_WIDTH = 140


class ReportFormat(StrEnum):
    """Formats of a report."""

    table = "table"
    json = "json"
    markdown = "markdown"
    html = "html"


@app.command()
def compress(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships (`sparserve recipes`).")],
    model: Annotated[
        str | None, typer.Option(help="Pre-trained checkpoint: a folder or a Hub id. Default: a MiniLM-L6.")
    ] = None,
    data: Annotated[
        str, typer.Option(help="Labelled text: CSV, TSV, JSONL or Parquet file, a folder of splits, or a Hub id.")
    ] = "movie-sentences",
    task: Annotated[str | None, typer.Option(help="Name of the task in the store. Default: from the data.")] = None,
    store: StoreOption = DEFAULT_STORE,
    teacher: Annotated[
        str | None, typer.Option(help="A checkpoint that is fine-tuned already; it is taken as it is.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Overrides the recipe's pruning.sparsity (fraction).")] = None,
    variant: Annotated[str | None, typer.Option(help="Overrides the recipe's variant name.")] = None,
    set_field: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe's field: student.epochs=2. May be repeated.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Search for latency<=3ms@1x64, size<=6MB or accuracy_drop<=1.0. May be repeated."),
    ] = None,
    search_recipes: Annotated[
        str | None,
        typer.Option(help="Recipes to search beside RECIPE, such as demo,distilbert. Default: a few that ship."),
    ] = None,
    search_levels: Annotated[str | None, typer.Option(help="Levels of RECIPE to search, such as 0.8,0.9.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the text. Default: guessed, and said.")] = None,
    text_pair_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    label_separator: Annotated[str | None, typer.Option(help="Several labels a row, separated by this.")] = None,
    multi_label: Annotated[bool | None, typer.Option(help="Several labels a row.")] = None,
    header: Annotated[bool | None, typer.Option(help="Whether the file's first row names its columns.")] = None,
    validation: Annotated[Path | None, typer.Option(help="File of the validation split.")] = None,
    test: Annotated[Path | None, typer.Option(help="File of the test split.")] = None,
    seed: Annotated[int, typer.Option(help="Of splits, training and intervals.", min=0, max=2**32 - 1)] = 0,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: all that this process may use.", min=1)
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of cached steps. Default: STORE/.work.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
) -> None:
    """Fine-tune, prune, distil, export, evaluate and measure; publish the bundles and their report.

    Run the same command again after an interruption: it goes on where it was.
    """
    _quieten()
    from sparserve.models.distributed import idle_gpus, leading

    with explained(), leading():
        from sparserve.models.pipeline.job import CompressOptions, prepare
        from sparserve.models.progress import make_reporter

        reporter = make_reporter(json_lines=json_lines)
        if advice := idle_gpus():
            reporter.say(advice)
        options = CompressOptions(
            recipe=recipe,
            model=model,
            data=data,
            task=task,
            teacher=teacher,
            overrides=_overrides(set_field or [], sparsity, variant),
            columns={"text_column": text_column, "text_pair_column": text_pair_column, "label_column": label_column},
            label_separator=label_separator,
            multi_label=multi_label,
            header=header,
            splits={name: path for name, path in (("validation", validation), ("test", test)) if path is not None},
            seed=seed,
            threads=threads,
            store=store,
            work=work or store / ".work",
        )
        if target or search_recipes is not None or search_levels is not None:
            from sparserve.models.search.session import SearchOptions, prepare_search, run_search

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
        report = run.execute(reporter)
        if json_lines:
            reporter.result("report", report.model_dump(mode="json"))
        else:
            from sparserve.models.report.builder import terminal_table

            wide_console().print(terminal_table(report))
            reporter.say(f"Report: {run.store.report_path(report.task, 'html')}")


@app.command()
def report(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    store: StoreOption = DEFAULT_STORE,
    format: Annotated[ReportFormat, typer.Option(help="What to print.")] = ReportFormat.table,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Print a task's compression/accuracy report, made anew from the bundles that are current."""
    with explained():
        from sparserve.models.bundle.store import Store
        from sparserve.models.files import write_atomically
        from sparserve.models.report.builder import build_report, terminal_table, to_html, to_markdown

        found = build_report(Store(store), task)
        if format is ReportFormat.table:
            console = wide_console()
            with console.capture() as capture:
                console.print(terminal_table(found))
            text = capture.get()
        else:
            text = {
                ReportFormat.json: lambda: found.model_dump_json(indent=1) + "\n",
                ReportFormat.markdown: lambda: to_markdown(found),
                ReportFormat.html: lambda: to_html(found),
            }[format]()
        if output is None:
            sys.stdout.write(text)
        else:
            write_atomically(output, text)


@app.command()
def recipes() -> None:
    """List the recipes that ship."""
    with explained():
        from sparserve.models.recipes.loading import load_recipe, shipped_recipes

        table = Table("recipe", "variant", "what it does")
        for name in shipped_recipes():
            loaded = load_recipe(name)
            table.add_row(name, loaded.variant_name, loaded.description)
        Console().print(table)


def _as_it_is(name: str, about: str) -> None:
    """List a command that reads its own options."""

    def run(context: typer.Context) -> None:
        found = base_command(name)
        raise typer.Exit(found(context.args) if found else 2)

    # The command's own --help tells its options.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name, help=f"{about}: `sparserve {name} --help` lists its options.", context_settings=settings)(run)


_as_it_is("serve", "Serve a store over HTTP")
_as_it_is("keys", "Make, list and revoke the API keys of a service")
_as_it_is("promote", "Let a variant answer with another version")
_as_it_is("rollback", "Let a variant answer with the version published before")


def wide_console() -> Console:
    """Return a console for tables: as wide as the terminal, and wide enough for all columns in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def _overrides(fields: list[str], sparsity: float | None, variant: str | None) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for field in fields:
        name, separator, value = field.partition("=")
        if not separator or not name:
            raise InputError(f"--set {field}: write it as field=value, such as student.epochs=2")
        try:
            # Names are text as they stand, also `best{sparsity}`, which YAML would take for a mapping.
            overrides[name] = value if name in ("name", "description", "variant") else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {field}: {value!r} is not YAML; quote it, as in {name}='\"...\"'") from error
    if sparsity is not None:
        overrides["pruning.sparsity"] = sparsity
    if variant is not None:
        overrides["variant"] = variant
    return overrides


def _quieten() -> None:
    """Libraries' advice about themselves is not for this program's user; their errors still come through."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|onnxscript)\.")
    for name in ("torch", "transformers", "accelerate", "onnxscript", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
