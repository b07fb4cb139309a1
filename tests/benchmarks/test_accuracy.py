"""Grid, figures and page of the accuracy benchmark. tests/models covers the training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy.publish.page import accuracy, page
from benchmarks.accuracy.publish.plots import accuracy_against_sparsity
from benchmarks.accuracy.results import read_results
from benchmarks.accuracy.scales import SCALES
from benchmarks.accuracy.scales.base import BASE
from benchmarks.accuracy.scales.grid import cells
from benchmarks.accuracy.scales.small import SMALL
from benchmarks.accuracy.scores import divergence, mean_interval, paired_drop, shared_tasks
from benchmarks.accuracy.tasks import TASKS
from sparserve.models.recipes.loading import load_recipe, shipped_recipes


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_cells_load_recipes_with_same_teacher_and_epochs(scale: Any) -> None:
    for task, (_, epochs) in scale.epochs.items():
        every = [method.name for method in scale.methods]
        grid = list(cells(scale, [task], every))
        recipes = [load_recipe(cell.method.recipe, overrides=cell.overrides) for cell in grid]
        assert len({recipe.teacher for recipe in recipes}) == 1
        dearer = {
            cell.method.name
            for cell, recipe in zip(grid, recipes, strict=True)
            if recipe.augmentation or recipe.student.epochs not in (0, epochs)
        }
        more = (
            "times the steps",
            "times the rows",
            "-augmented",
            "as shipped",
            "2,000 steps",
            "taught by MPNet-base",
            "by trials",
        )
        assert all(any(part in name for part in more) for name in dearer)
        assert {cell.method.name for cell in cells(scale, [task])} & dearer <= {"sparsebert-best, as shipped"}


def test_small_scale_has_every_shipped_method() -> None:
    others = {"demo", "demo-magnitude", "smallest"}
    assert {method.recipe for method in SMALL.methods} == set(shipped_recipes()) - others


def test_cells_are_unique_and_seeds_come_last() -> None:
    grid = list(cells(SMALL, list(SMALL.epochs)))
    assert len({cell.title for cell in grid}) == len(grid)
    seeds = [cell.seed for cell in grid]
    assert seeds == sorted(seeds)
    assert {cell.method.name for cell in grid if cell.seed} == set(SMALL.seeded)


def test_chains_run_on_the_tasks_of_their_teachers() -> None:
    name = "sparsebert-best, taught by MPNet-base"
    grid = list(cells(SMALL, list(SMALL.epochs), [name], seeds=1))
    assert {cell.task for cell in grid} == set(BASE.epochs) < set(SMALL.epochs)


def test_cells_can_be_selected() -> None:
    (one,) = cells(BASE, ["cola"], ["obert"], ["90 %"], seeds=1)
    assert (one.task, one.method.name, one.level, one.seed) == ("cola", "obert", "90 %", 0)
    assert load_recipe(one.method.recipe, overrides=one.overrides).pruning.sparsity == 0.9


def test_method_as_shipped_has_the_passes_of_its_recipe_and_the_length_of_its_task() -> None:
    (cell,) = cells(SMALL, ["imdb"], ["sparsebert-best, as shipped"], ["95 %"], seeds=1)
    recipe, shipped = load_recipe(cell.method.recipe, overrides=cell.overrides), load_recipe("sparsebert-best")
    assert recipe.student == shipped.student and recipe.pruning == shipped.pruning
    assert (recipe.max_length, shipped.max_length) == (256, 128)


def test_task_scores_match_glue() -> None:
    names = ("different", "equivalent")
    # 2 hits, 1 false alarm, 1 miss of "equivalent": F1 = 4 / 6
    assert TASKS["mrpc"].score([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], names) == pytest.approx(100 * 2 / 3)
    assert TASKS["rte"].score([1, 0], [1, 1], ("entailment", "not_entailment")) == 50
    assert TASKS["cola"].score([1, 0, 1, 0], [1, 0, 1, 0], ("acceptable", "unacceptable")) == 100


def test_paired_drop_is_paired() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400)
    dense = np.where(generator.random(400) < 0.7, labels, 1 - labels)
    student = dense.copy()
    student[:8] = 1 - labels[:8]

    def score(predicted: Any, truth: Any) -> Any:
        return 100 * float((predicted == truth).mean())

    same = paired_drop(score, dense, dense, labels)
    assert same == {"points": 0, "low": 0, "high": 0}
    found = paired_drop(score, dense, student, labels)
    assert found["points"] == pytest.approx(100 * (dense[:8] == labels[:8]).mean() * 8 / 400)
    # Unpaired, the interval of a difference of two proportions of 400 rows would be about 13 points wide.
    assert 0 < found["high"] - found["low"] < 4


def test_mean_interval_uses_student_t() -> None:
    assert mean_interval([80.0]) == (80.0, None)
    mean, half = mean_interval([80.0, 81.0, 82.0])
    assert mean == 81
    assert half == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)


def run(**changes: Any) -> Any:
    record = {
        "scale": "minilm-l6", "task": "mrpc", "metric": "f1", "method": "magnitude", "kind": "weights", "level": "95 %",
        "seed": 0, "train_rows": 3300, "test_rows": 408, "epochs": 3.0, "dense": 88.0, "score": 80.0,
        "drop": {"points": 8.0, "low": 5.0, "high": 11.0}, "encoder_kept": 0.05, "device": "cpu", "threads": 2,
        "precision": "fp32",
        "machine": {"cpu": "a processor", "onnxruntime": "1.31"}, "minutes": 4.0,
        "finished_at": "2026-11-21T12:00:00+00:00",
    }  # fmt: skip
    return record | changes


def test_accuracy_page_shows_available_runs(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.json"
    assert read_results(path) == {"runs": [], "latency": []}
    better = {"method": "obert", "score": 87.0, "drop": {"points": 1.0, "low": -1.0, "high": 3.0}}
    runs = [run(), run(**better), run(**better | {"seed": 1, "score": 86.0, "drop": {"points": 2.0}})]
    path.write_text(json.dumps({"runs": runs, "latency": []}))
    text = page(read_results(path))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| dense teacher |") and "88.0" in rows[1]
    # The least drop first; several seeds as their mean.
    assert rows[2].startswith("| obert | 95 % | fixed: 0.0001, 4 epochs | 5.0 % | 86.5 (+1.5 ±")
    assert "80.0 (+8.0, +5.0 to +11.0)" in rows[3]
    assert "There are no measurements" in text  # at the other scale


def test_accuracy_table_shows_teachers_of_two_machines() -> None:
    text = accuracy([run(), run(method="obert", dense=87.5), run(method="platon")])
    assert "| dense teacher |  | fixed: 0.0001, 4 epochs | 100 % | 88.0 or 87.5 |" in text


def test_marks_flag_other_teacher_or_precision() -> None:
    usual = [run(), run(method="platon", threads=1)]
    assert "†" not in accuracy(usual)
    for changes in ({"dense": 87.5}, {"precision": "bf16"}):
        text = accuracy([*usual, run(method="obert", **changes)])
        assert [line.split("|")[1].strip() for line in text.splitlines() if " † |" in line] == ["obert"]
        assert text.splitlines()[-1].startswith("† Trained in another precision")


def test_methods_of_one_task_do_not_change_the_means_of_others() -> None:
    runs = [run(method=method, task=task) for method in ("obert", "platon") for task in ("mrpc", "rte")]
    alone = [run(method=f"arm {number}", task="cola") for number in range(3)]
    assert shared_tasks([*runs, *alone]) == ["mrpc", "rte"]
    assert shared_tasks([*runs, run(method="obert", task="cola")]) == ["mrpc", "rte"]


def test_means_cover_shared_tasks() -> None:
    rte = {"task": "rte", "metric": "accuracy", "agreement": 80.0, "drop": {"points": 2.0, "low": 0.0, "high": 4.0}}
    both = [
        run(agreement=90.0, divergence=0.1),
        run(agreement=88.0, divergence=0.3, seed=1),
        run(divergence=0.4, **rte),
    ]
    other = [run(method="obert", agreement=70.0), run(method="obert", **rte), run(method="obert", task="cola")]
    head, _, _, row, second = accuracy([*both, *other]).splitlines()
    assert "mean drop (mrpc, rte)" in head
    assert row.startswith("| magnitude") and row.endswith("| 5.0 | 84.5 % | 0.300 | 4.0 |")
    assert second.startswith("| obert") and second.endswith("| 5.0 | 75.0 % | - | 4.0 |")
    del both[-1]["agreement"]
    assert "| 5.0 | - | 0.300 | 4.0 |" in accuracy([*both, *other])


def test_divergence_is_kullback_leibler() -> None:
    teacher, student = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    assert divergence(teacher + 3, student) == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(2 / 3)))
    assert divergence(teacher, teacher) == 0


def test_accuracy_table_names_the_out_of_scope_recall() -> None:
    recall = {"task": "clinc150", "metric": "accuracy", "out_of_scope_recall": {"dense": 37.0, "score": 35.5}}
    text = accuracy([run(**recall)])
    assert text.endswith("recognised: clinc150 37.0 % by the teacher, 35.5 % by magnitude 95 %.")


def test_accuracy_table_shows_majority_baseline() -> None:
    text = accuracy([run(), run(method="obert", majority=81.2), run(task="rte", metric="accuracy")])
    assert "| most frequent label |  |  |  | 81.2 | - |" in text


def test_choices_rank_by_validation(tmp_path: Path) -> None:
    first = run(scale="choices", task="sst2", method="sparsebert-best", level="first settings", validation=85.0)
    better = {"level": "T = 4", "validation": 86.5, "score": 70.0, "minutes": None, "divergence": 0.1234}
    text = page({"runs": [first, first | better], "latency": []})
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| sparsebert-best | T = 4 | 86.5 (0.123) | - |",
        "| sparsebert-best | first settings | 85.0 | 4.0 |",
    ]
    assert "70.0" not in text


def test_choices_list_incomplete_rows_last() -> None:
    def setting(level: Any, **validation: Any) -> Any:
        return [
            run(scale="choices", method="sparsebert-best", task=task, level=level, validation=value)
            for task, value in validation.items()
        ]

    runs = [
        *setting("all", sst2=80.0, cola=20.0),
        *setting("best of one", sst2=90.0),
        *setting("cola alone", cola=30.0),
        *setting("good of one", sst2=85.0),
    ]
    text = page({"runs": runs, "latency": []})
    levels = [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| sparsebert-best")]
    assert levels == ["all", "cola alone", "best of one", "good of one"]
    assert "Rows of other recipes" not in text
    other = run(scale="choices", method="distilbert", task="sst2", level="as shipped", validation=80.0)
    assert "Rows of other recipes" in page({"runs": [*runs, other], "latency": []})


def test_accuracy_row_without_shared_tasks_has_no_mean() -> None:
    table = accuracy([run(), run(method="platon"), run(method="obert", task="cola", metric="mcc")])
    (obert,) = [line for line in table.splitlines() if line.startswith("| obert")]
    assert "mean drop (mrpc)" in table
    assert obert.split("|")[7].strip() == "-"


def test_plot_uses_shared_tasks(tmp_path: Path) -> None:
    none_in_common = [run(method="magnitude"), run(method="obert", task="cola", metric="mcc")]
    accuracy_against_sparsity(none_in_common, tmp_path / "one.svg")
    assert "obert" in (tmp_path / "one.svg").read_text() and "of cola" in (tmp_path / "one.svg").read_text()
    every = [
        *none_in_common,
        run(method="obert"),
        run(method="magnitude", task="cola"),
        run(task="rte", method="obert"),
    ]
    accuracy_against_sparsity(every, tmp_path / "two.svg")
    assert "of cola, mrpc" in (tmp_path / "two.svg").read_text()


def test_accuracy_table_names_the_teachers() -> None:
    found = {"found": True, "learning_rate": 2e-4, "epochs": 7}
    text = accuracy([run(), run(method="obert", dense=90.0, teacher=found), run(method="platon")])
    assert "| dense teacher |  | auto: 0.0002, 7 epochs | 100 % | 90.0 |" in text
    assert "| dense teacher |  | fixed: 0.0001, 4 epochs | 100 % | 88.0 |" in text
    (obert,) = [line for line in text.splitlines() if line.startswith("| obert")]
    assert "| auto: 0.0002, 7 epochs |" in obert and "†" in obert


def test_small_scale_has_teachers_and_dense_rivals_that_find_their_training() -> None:
    own_rate = set()
    for cell in cells(SMALL, ["mrpc"], seeds=1):
        recipe = load_recipe(cell.method.recipe, overrides=cell.overrides)
        assert recipe.teacher is None
        own_rate |= {cell.method.name} if recipe.student.learning_rate is None else set()
    assert own_rate == {"distilbert", "tinybert", "mutual-information"}
    (nothing_pruned,) = [method for method in SMALL.methods if method.kind == "dense"]
    assert nothing_pruned.name == "dense int8"
