"""A whole search: `sparserve compress RECIPE --target ...` from its arguments to the variant that answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sparserve.models.errors import InputError, RecipeError, TargetError
from sparserve.models.pipeline.job import CompressOptions, Run, prepare
from sparserve.models.pipeline.preflight import check_calibration, check_recipe, check_vocabulary
from sparserve.models.pipeline.step_cache import digest_of
from sparserve.models.progress import Reporter
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from sparserve.models.recipes.schema import Recipe
from sparserve.models.report.builder import write_report
from sparserve.models.search.frontier import SIZE, Point, baseline_points, best, frontier, nearest, points
from sparserve.models.search.ladders import Candidate, Ladder, make_ladder, slug, with_shared
from sparserve.models.search.outcomes import Outcome
from sparserve.models.search.output import as_record, figures, frontier_table, trial_line, trial_record
from sparserve.models.search.record import RecordedTrials
from sparserve.models.search.search import Trial, search
from sparserve.models.search.size_bound import least_bytes, least_dense_bytes
from sparserve.models.search.targets import Target, parse_target, phrase
from sparserve.models.search.trials import RunTrials, with_recipe

# No training, units, single weights, the whole model: each is the best somewhere (docs/benchmarks/accuracy.md).
USUAL_RECIPES = ("post-training", "mutual-information", "sparsebert-best", "smallest")


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search, beside those of a run, as the user wrote them."""

    targets: Sequence[str]
    recipes: str | None
    levels: str | None


@dataclass(frozen=True)
class Search:
    """A search that is ready to run: every candidate has been checked against the checkpoint."""

    targets: tuple[Target, ...]
    ladders: tuple[Ladder, ...]
    prepared: Run
    work: Path

    @property
    def digest(self) -> str:
        """Digest of everything that the candidates' outcomes depend on; part of the record's file name."""
        recipes = {ladder.name: ladder.recipe for ladder in self.ladders}
        # A measurement depends on every step before it, and thus on their data, networks, methods and code.
        measurements = {
            ladder.name: with_recipe(self.prepared, ladder.candidate(0).recipe).plan.measurement.key
            for ladder in self.ladders
        }
        task = self.prepared.plan.job.task
        return digest_of("search", {"task": task, "measurements": measurements, "recipes": recipes})

    def print_plan(self, reporter: Reporter) -> None:
        """Print every ladder and the steps of the first trial."""
        reporter.say(f"Search for {phrase(self.targets)}:")
        for ladder in self.ladders:
            rungs = [ladder.values(rung) for rung in range(len(ladder.levels))]
            what = [f"{field} of {', '.join(f'{values[field]:g}' for values in rungs)}" for field in ladder.fields]
            trials = math.ceil(math.log2(len(ladder))) + 1
            reporter.say(
                f"  {ladder.name}: {' and '.join(what) or 'unchanged'}; about {trials} trial{'s' * (trials > 1)}"
            )
            record = {"recipe": ladder.name, "fields": ladder.fields, "levels": ladder.levels, "rungs": rungs}
            reporter.result("ladder", record)
        first = self.ladders[0]
        middle = first.candidate((len(first) - 1) // 2)
        reporter.say(f"First trial: {middle.title}")
        with_recipe(self.prepared, middle.recipe).print_plan(reporter)

    def execute(self, reporter: Reporter) -> tuple[list[Point], Point | None]:
        """Make the trials; return the frontier and the best point, which is None if no point meets the targets.

        The variant of the best point becomes the task's default, in the version with the point's figures, and the
        task's report is written again. No bundle is removed.
        """
        store, task = self.prepared.store, self.prepared.plan.job.task
        make = RecordedTrials(
            self.work / f"search-{self.digest}.json",
            RunTrials(self.prepared, reporter),
            stored=[(name, version) for name in store.variants(task) for version in store.versions(task, name)],
        )
        count = 0

        def trial(candidate: Candidate) -> Outcome:
            nonlocal count
            count += 1
            reporter.say(f"Trial {count}: {candidate.title}")
            made = Trial(candidate, make(candidate))
            reporter.say(f"Trial {count}: {trial_line(made, self.targets)}")
            reporter.result("trial", trial_record(made, self.targets))
            return made.outcome

        trials = search(self.ladders, self.targets, trial)
        found = [*baseline_points(trials), *points(trials)]
        chosen = best(found, self.targets)
        shown = frontier(found, self.targets)
        if chosen is not None and chosen not in shown:  # as accurate as a point that costs less, but smaller
            shown = [chosen, *shown]
        reporter.result("frontier", [as_record(point, self.targets) for point in shown])
        if chosen is not None:
            # Another search may have published the same variants since: the report must show the bundles of this one.
            for variant, version in sorted({bundle for trial in trials for bundle in trial.outcome.bundles}):
                store.promote(task, variant, version)
            store.set_default_variant(task, chosen.serving.variant)
            write_report(store, task)
            reporter.result("best", as_record(chosen, self.targets))
        return shown, chosen


def prepare_search(options: CompressOptions, search_options: SearchOptions, reporter: Reporter) -> Search:
    """Read the targets, the recipes, the data and the checkpoints, and check every candidate.

    The recipe of `options` comes first, then those of `search_options.recipes`, by default a few shipped recipes. All
    use the first recipe's baseline and measurement, whose grid gets the cells of the targets.

    Raises:
        InputError: a target cannot be parsed, or its texts are longer than the recipe's maximum.
        RecipeError, DataError, CheckpointError: one of them is wrong.
        TargetError: the token embeddings of every recipe are larger than a size target.
    """
    if not search_options.targets:
        raise InputError("--search-recipes and --search-levels need a search: add --target, such as size<=6MB")
    targets = tuple(parse_target(text) for text in search_options.targets)
    if "variant" in options.overrides:
        raise InputError("a search names its variants by recipe and level: remove --variant, or --target")
    levels = _levels(search_options.levels)
    others = _other_recipes(options.recipe, search_options.recipes)
    prepared = prepare(options, reporter)
    job = prepared.plan.job
    if job.dataset.one_score:
        raise InputError(
            "a search compares accuracies, but the data has one number for each row: remove --target and the other "
            "options of a search"
        )
    config: Any = job.checkpoint.config
    layers = int(config.num_hidden_layers)
    first = _measured_at(job.recipe, targets)
    own = make_ladder(first.name, first, layers=layers, levels=levels)
    ladders = [_fitting(own, prepared, reporter) if levels is None else _checked(own, prepared)]
    for recipe in others:
        try:
            if slug(recipe.name) in {slug(ladder.name) for ladder in ladders}:
                raise InputError(f"two recipes of the search are named {recipe.name}: rename one of them")
            usual = make_ladder(recipe.name, with_shared(recipe, first), layers=layers)
            ladder = _fitting(usual, prepared, reporter)
            # The first recipe's vocabulary was checked with the data; no level changes it.
            check_vocabulary(replace(job, recipe=usual.recipe))
        except InputError as error:
            if search_options.recipes is not None:
                raise
            reporter.say(f"The recipe {recipe.name} is not searched: {error}")
            continue
        ladders.append(ladder)
    fitting = _small_enough(ladders, targets, prepared, reporter)
    return Search(targets, tuple(fitting), with_recipe(prepared, first), options.work)


def run_search(search: Search, reporter: Reporter, console: Console | None) -> tuple[list[Point], Point]:
    """Run a search, print its frontier to the console if there is one, and return the frontier and the best point.

    Raises:
        TargetError: no trial meets the targets; the message names the nearest.
    """
    targets, task = search.targets, search.prepared.plan.job.task
    shown, chosen = search.execute(reporter)
    if console is not None and shown:
        console.print(frontier_table(shown, chosen, targets))
    if chosen is None:
        close = nearest(shown, targets)
        if close is None:
            raise TargetError(
                f"every trial of the search for {phrase(targets)} failed, so no dense variant was measured either: "
                "try other recipes with --search-recipes"
            )
        raise TargetError(
            f"nothing meets {phrase(targets)}; nearest is {close.title}: {figures(close.serving, targets)}. "
            "Loosen a target, or try more recipes with --search-recipes. The bundles of all trials stay published"
        )
    serving = chosen.serving
    reporter.say(f"Best: {chosen.title}: {figures(serving, targets)}")
    hint = (
        "" if serving.preferred else f" (these figures need the service's setting SPARSERVE_RUNTIME={serving.runtime})"
    )
    reporter.say(f"{task} answers with {serving.variant} from now on{hint}")
    reporter.say(f"Report: {search.prepared.store.report_path(task, 'html')}")
    return shown, chosen


def _checked(ladder: Ladder, prepared: Run) -> Ladder:
    """Return the ladder after checking every level against the job's networks and data."""
    job = prepared.plan.job
    for rung in range(len(ladder)):
        recipe = ladder.candidate(rung).recipe
        check_recipe(job.checkpoint, job.teacher, recipe)
        check_calibration(replace(job, recipe=recipe))
    return ladder


def _fitting(ladder: Ladder, prepared: Run, reporter: Reporter) -> Ladder:
    """Return the ladder without the levels that do not fit the job's networks and data, and report those.

    Raises:
        RecipeError: no level fits; the message is about the first.
    """
    refused: dict[float, RecipeError] = {}
    for rung, level in enumerate(ladder.levels):
        try:
            _checked(replace(ladder, levels=ladder.levels[rung : rung + 1]), prepared)
        except RecipeError as error:
            refused[level] = error
    kept = tuple(level for level in ladder.levels if level not in refused)
    if not kept:
        return _checked(ladder, prepared)
    for level, reason in refused.items():
        reporter.say(f"The recipe {ladder.name} is not searched at {level:g}: {reason}")
    return replace(ladder, levels=kept)


def _small_enough(
    ladders: Sequence[Ladder], targets: Sequence[Target], prepared: Run, reporter: Reporter
) -> list[Ladder]:
    """Return the ladders that no size target rules out before any trial."""
    job = prepared.plan.job
    limit = min((target.limit for target in targets if target.quantity == "size"), default=math.inf)
    smallest = {ladder.name: ladder.candidate(len(ladder) - 1).recipe for ladder in ladders}
    least = {name: least_bytes(job.checkpoint, job.teacher, recipe) for name, recipe in smallest.items()}
    for ladder in ladders:
        if least[ladder.name] > limit:
            size = SIZE.spell(least[ladder.name])
            reporter.say(f"The recipe {ladder.name} is not searched: its token embeddings alone take {size}")
    fitting = [ladder for ladder in ladders if least[ladder.name] <= limit]
    if not fitting:
        if least_dense_bytes(job.checkpoint, job.teacher, job.recipe) <= limit:
            reporter.say("Only the dense int8 baseline can be that small: one trial is made, to measure it")
            return [replace(ladders[0], levels=ladders[0].levels[:1])]
        raise TargetError(
            f"nothing can meet {phrase(targets)}: the token embeddings alone take {SIZE.spell(min(least.values()))}; "
            "loosen the target, or add a recipe that cuts them with --search-recipes, such as smallest"
        )
    return fitting


def _measured_at(recipe: Recipe, targets: Sequence[Target]) -> Recipe:
    """Return the recipe with the targets' cells in its latency grid."""
    cells = [target.cell for target in targets if target.cell is not None]
    for _, length in cells:
        if length > recipe.max_length:
            raise InputError(
                f"latency at {length} tokens cannot be measured: the recipe truncates texts to max_length "
                f"{recipe.max_length}; add --set max_length={length}, or choose a shorter length"
            )
    grid = recipe.measurement
    batches = tuple(sorted({*grid.batches, *(batch for batch, _ in cells)}))
    lengths = tuple(sorted({*grid.lengths, *(length for _, length in cells)}))
    return recipe.model_copy(update={"measurement": grid.model_copy(update={"batches": batches, "lengths": lengths})})


def _other_recipes(first: str, given: str | None) -> list[Recipe]:
    shipped = shipped_recipes()
    usual = [name for name in USUAL_RECIPES if name in shipped]
    names = usual if given is None else [name.strip() for name in given.split(",") if name.strip()]
    return [load_recipe(name) for name in dict.fromkeys(names) if name != first]


def _levels(given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(level) for level in given.split(",")]
    except ValueError as error:
        raise InputError(f"--search-levels {given!r}: write numbers with commas, such as 0.8,0.9,0.95") from error
