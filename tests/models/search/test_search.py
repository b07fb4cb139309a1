"""The search over recipes and levels, on made-up figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sparserve.models.bundle.manifest import LatencyPoint
from sparserve.models.bundle.variants import Precision, Runtime
from sparserve.models.recipes.schema import Recipe
from sparserve.models.search.frontier import Point, baseline_points, best, frontier, nearest, points
from sparserve.models.search.ladders import Candidate, Ladder
from sparserve.models.search.outcomes import Outcome, Serving
from sparserve.models.search.output import as_record, frontier_table, trial_line
from sparserve.models.search.record import RecordedTrials
from sparserve.models.search.search import Trial, search
from sparserve.models.search.targets import Target, parse_target

SIZE, FAST, DROP = Target("size", 500.0), Target("latency", 0.5, (1, 64)), Target("accuracy_drop", 5.0)
Kind = tuple[Precision, Runtime]
Rows = Sequence[tuple[int, float, float]]
Figures = Mapping[Kind, Rows]
Targets = tuple[Target, ...]
KINDS: tuple[Kind, ...] = (("fp32", "onnx"), ("fp32", "sparse"), ("int8", "onnx"), ("int8", "sparse"))
VERSION = "0123456789abcdef"
REQUESTS = st.sampled_from([(SIZE,), (FAST,), (DROP,), (SIZE, DROP), (FAST, SIZE), (FAST, SIZE, DROP)])


def ladder_of(count: int, name: str = "demo") -> Ladder:
    return Ladder(name, Recipe(name=name), ("pruning.sparsity",), tuple(rung / count for rung in range(count)))


def serving(
    variant: str, size: int, seconds: float, drop: float, kind: Kind = KINDS[0], version: str = VERSION
) -> Serving:
    point = LatencyPoint(
        batch=1, length=64, p50_seconds=seconds, p95_seconds=seconds, items_per_second=1, dense_p50_seconds=1
    )
    return Serving(
        variant=variant,
        precision=kind[0],
        runtime=kind[1],
        version=version,
        preferred=True,
        bytes=size,
        latency=(point,),
        accuracy=0.5,
        drop_points=drop,
    )


class MadeUpTrials:
    """Trials with given figures: for each kind of file and rung its size, seconds and drop."""

    def __init__(self, figures: Figures, failing_from: float = math.inf, baseline: tuple[Serving, ...] = ()) -> None:
        self.figures = figures
        self.failing_from = failing_from
        self.baseline = baseline
        self.made: list[int] = []

    def __call__(self, candidate: Candidate) -> Outcome:
        self.made.append(candidate.rung)
        if candidate.rung >= self.failing_from:
            return Outcome(variant=candidate.variant, failure="the loss is nan")
        rows = [serving(candidate.variant, *rungs[candidate.rung], kind) for kind, rungs in self.figures.items()]
        return Outcome(variant=candidate.variant, servings=tuple(rows), baseline=self.baseline)

    def exhaustive(self, ladder: Ladder, targets: Sequence[Target]) -> list[Point]:
        every = [ladder.candidate(rung) for rung in range(len(ladder))]
        return points(
            [Trial(candidate, MadeUpTrials(self.figures, self.failing_from)(candidate)) for candidate in every]
        )


def monotone(seed: int, count: int, kinds: Sequence[Kind]) -> Figures:
    """For each kind of file: sizes and times that fall along the ladder, and drops that rise."""
    generator = np.random.default_rng(seed)

    def rising(most: float) -> npt.NDArray[np.float64]:
        return np.cumsum(generator.uniform(0.01, 2 * generator.uniform(0.5, 1.5) * most / count, count))

    def sizes() -> list[int]:  # no two alike: of levels of the same cost the search may find any
        return [int(size) + count - rung for rung, size in enumerate(rising(700)[::-1])]

    return {kind: list(zip(sizes(), rising(0.7)[::-1].tolist(), rising(10).tolist(), strict=True)) for kind in kinds}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), REQUESTS)
def test_search_finds_the_best_level_in_logarithmic_trials(seed: int, count: int, targets: Targets) -> None:
    make, ladder = MadeUpTrials(monotone(seed, count, KINDS[:1])), ladder_of(count)
    found = best(points(search([ladder], targets, make)), targets)
    assert found == best(make.exhaustive(ladder, targets), targets)
    assert len(make.made) == len(set(make.made)) <= math.ceil(math.log2(len(ladder))) + 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), REQUESTS, st.integers(1, 14))
def test_search_finds_the_best_of_several_kinds_with_failing_levels(
    seed: int, count: int, targets: Targets, failing_from: int
) -> None:
    make, ladder = MadeUpTrials(monotone(seed, count, KINDS), failing_from), ladder_of(count)
    found = best(points(search([ladder], targets, make)), targets)
    assert found == best(make.exhaustive(ladder, targets), targets)
    assert len(make.made) == len(set(make.made))


def test_search_continues_for_other_kinds_after_one_fits() -> None:
    slow_to_shrink = [(900 - 100 * rung, 0.1, 0.1 * rung) for rung in range(8)]
    made = MadeUpTrials({KINDS[0]: slow_to_shrink, KINDS[2]: [(100, 0.1, 4.0)] * 8})
    chosen = best(points(search([ladder_of(8)], [SIZE], made)), [SIZE])
    assert chosen is not None and chosen.candidate is not None
    assert (chosen.serving.kind, chosen.candidate.rung) == (KINDS[0], 4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1), st.floats(-5, 20)), min_size=1, max_size=12), REQUESTS)
def test_best_meets_the_targets_however_figures_jump(rows: Rows, targets: Targets) -> None:
    make, ladder = MadeUpTrials({KINDS[0]: rows}), ladder_of(len(rows))
    found = points(search([ladder], targets, make))
    chosen = best(found, targets)
    assert chosen is None or all(target.met_by(chosen.serving) for target in targets)
    assert chosen is not None or not any(point.meets(targets) for point in found)


def test_best_is_the_most_accurate_of_all_recipes() -> None:
    lossy, good = [(100, 0.1, 9.0)] * 4, [(900, 0.1, 0.5), (400, 0.1, 0.9), (300, 0.1, 1.5), (200, 0.1, 4.0)]
    figures = {"lossy": MadeUpTrials({KINDS[0]: lossy}), "good": MadeUpTrials({KINDS[0]: good})}
    trials = search([ladder_of(4, "lossy"), ladder_of(4, "good")], [SIZE], lambda c: figures[c.ladder](c))
    chosen = best(points(trials), [SIZE])
    assert chosen is not None and chosen.candidate is not None
    assert (chosen.candidate.ladder, chosen.candidate.rung) == ("good", 1)
    shown = next(trial for trial in trials if trial.candidate == chosen.candidate)
    expected = "good at pruning.sparsity=0.25: good-sparsity25, 0.0004 MB, drop 0.9 points: meets"
    assert trial_line(shown, [SIZE]) == expected


def test_frontier_and_nearest_of_points_that_miss_the_targets() -> None:
    figures = {KINDS[0]: [(900, 0.1, 1.0), (800, 0.1, 6.0), (800, 0.1, 7.0), (700, 0.9, 20.0)]}
    found = MadeUpTrials(figures).exhaustive(ladder_of(4), [SIZE])
    rungs = [point.candidate.rung for point in frontier(found, [SIZE, DROP]) if point.candidate]
    assert rungs == [0, 1, 3]
    assert best(found, [SIZE, DROP]) is None
    assert nearest(found, [SIZE, DROP]) == found[0]
    assert nearest([], [SIZE]) is None


def test_frontier_table_has_a_row_per_point_and_a_star() -> None:
    found = MadeUpTrials({KINDS[1]: [(84_000, 0.0123, 41.67)]}).exhaustive(ladder_of(1), [FAST])
    console = Console(width=200)
    with console.capture() as capture:
        console.print(frontier_table(found, found[0], [FAST]))
    (row,) = (line for line in capture.get().splitlines() if "demo at" in line)
    cells = ["demo at pruning.sparsity=0", "demo-sparsity0 in the sparse runtime *", "41.7", "0.084", "12.3", "yes"]
    assert [cell.strip() for cell in row.strip("│").split("│")] == cells


def test_recorded_trials_are_not_made_again(tmp_path: Path) -> None:
    figures, dense = (
        {KINDS[0]: [(1000 - 100 * rung, 0.1, float(rung)) for rung in range(10)]},
        serving("dense", 1, 1, 0),
    )
    path, ladder = tmp_path / "search.json", ladder_of(10)
    first, second = MadeUpTrials(figures, baseline=(dense,)), MadeUpTrials(figures, baseline=(dense,))
    stored = [("dense", VERSION), *((ladder.candidate(rung).variant, VERSION) for rung in range(10))]
    before = search([ladder], [SIZE], RecordedTrials(path, first, stored=[]))
    assert search([ladder], [SIZE], RecordedTrials(path, second, stored=stored)) == before
    assert first.made and not second.made
    search([ladder], [SIZE], RecordedTrials(path, second, stored=stored[1:]))
    assert second.made == first.made, "figures against a baseline that the store has no more are found again"
    path.write_text(path.read_text()[:-9])
    third = MadeUpTrials(figures)
    search([ladder], [SIZE], RecordedTrials(path, third, stored=stored))
    assert third.made == first.made, "a record that is cut short counts as none"


def test_recorded_trials_need_their_bundles_in_the_store(tmp_path: Path) -> None:
    figures, path, ladder = {KINDS[0]: [(100, 0.1, 0.0)]}, tmp_path / "search.json", ladder_of(1)
    variant, other = ladder.candidate(0).variant, "f" * 16
    first, second, third = MadeUpTrials(figures), MadeUpTrials(figures), MadeUpTrials(figures)
    search([ladder], [SIZE], RecordedTrials(path, first, stored=[]))
    search([ladder], [SIZE], RecordedTrials(path, second, stored=[(variant, other)]))
    assert second.made == [0], "another search's bundle of the same name was taken for this one's"
    search([ladder], [SIZE], RecordedTrials(path, third, stored=[(variant, other), (variant, VERSION)]))
    assert not third.made


def test_best_may_be_a_dense_variant_which_does_not_steer_the_search() -> None:
    int8 = serving("dense-int8", 450, 0.2, 0.1, KINDS[2])
    figures = {KINDS[2]: [(600, 0.3, 0.2), (300, 0.2, 0.4), (200, 0.1, 9.0), (100, 0.1, 9.5)]}
    made = MadeUpTrials(figures, baseline=(serving("dense", 900, 0.4, 0.0), int8))
    trials = search([ladder_of(4), ladder_of(4, "again")], [SIZE], made)
    assert made.made == [1, 0, 1, 0]
    found = [*baseline_points(trials), *points(trials)]
    chosen, smallest = best(found, [SIZE]), best(found, [DROP])
    assert chosen is not None and smallest is not None
    assert (chosen.serving, chosen.title) == (int8, "dense-int8, nothing pruned")
    assert as_record(chosen, [SIZE])["recipe"] is None
    assert [point.serving.variant for point in found].count("dense") == 1, "once, however many trials measured it"
    assert smallest.serving.variant == "demo-sparsity25", "the smallest, where nothing else is asked for"
    assert baseline_points([Trial(ladder_of(1).candidate(0), Outcome(variant="demo", failure="the loss is nan"))]) == []


def test_best_of_a_latency_target_is_the_fastest_file() -> None:
    figures = {KINDS[0]: [(900, 0.004, 0.1)], KINDS[3]: [(300, 0.002, 0.4)]}
    targets = [parse_target("latency<=3ms@1x64")]
    chosen = best(points(search([ladder_of(1)], targets, MadeUpTrials(figures))), targets)
    assert chosen is not None and chosen.serving.kind == ("int8", "sparse")
