"""`sparserve compress --target`: a real search, its plan, and the errors of a search that cannot be made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.kernels.library import Library
from sparserve.models.bundle.store import Store

CommandLine = Callable[..., list[str]]
Event = dict[str, Any]


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory_processes")
def test_search_publishes_trials_sets_the_default_and_resumes(
    tiny_store: Path, compress_tiny: CommandLine, sparse_runtime: Library, tmp_path: Path
) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")  # its networks are already trained
    opened, best_variant = Store(store), "tiny-sparsity60-int8"
    options = ["--search-recipes", "", "--search-levels", "0.6", "--json"]

    def events(*targets: str, code: int = 0) -> tuple[list[Event], str]:
        options_of_targets = [word for target in ("latency<=10s@2x16", *targets) for word in ("--target", target)]
        result = CliRunner().invoke(app, compress_tiny(store, *options, *options_of_targets), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return [json.loads(line) for line in result.stdout.splitlines()], " ".join(result.stderr.split())

    def values(name: str, events: list[Event]) -> list[Any]:
        return [event["value"] for event in events if event.get("name") == name]

    def begun(events: list[Event]) -> set[str]:
        return {event["step"] for event in events if event["event"] == "begin"}

    first, _ = events("size<=58KB")  # only one file is as small: dense-int8 has 61 KB
    (made,) = values("best", first)
    assert (made["variant"], made["setting"], made["meets"]) == (best_variant, "pruning.sparsity=0.6", True)
    assert [(point["batch"], point["length"]) for point in made["latency"]] == [(2, 16)]
    trial = {"tiny-sparsity60", best_variant}
    assert set(opened.variants("tiny")) == {"dense", "dense-int8", "sparse60", "sparse60-int8"} | trial
    assert opened.default_variant("tiny") == best_variant
    assert json.loads(opened.report_path("tiny", "json").read_text())["default_variant"] == best_variant
    (dense,) = (store / ".work" / "steps").glob("validate-dense-????????????????")
    (on_test,) = (store / ".work" / "steps").glob("predict-dense-????????????????")
    assert not np.array_equal(*(np.load(folder / "logits.npy") for folder in (dense, on_test))), "not the test split"
    assert "export tiny-sparsity60" in begun(first) and not begun(first) & {"teacher", "student", "export dense"}

    # Another search publishes bundles of the same names, such as with another seed, and makes its own the default.
    versions = {variant: opened.current("tiny", variant) for variant in ("dense", *trial)}
    others = {}
    for variant in versions:
        bundle = opened.open("tiny", variant)
        lineage = bundle.manifest.lineage.model_copy(update={"seed": 1})
        files = {name: bundle.folder / name for name in bundle.manifest.files}
        others[variant] = opened.publish(
            bundle.manifest.model_copy(update={"lineage": lineage}), files
        ).manifest.version
    assert others != versions
    opened.set_default_variant("tiny", "dense-int8")
    again, _ = events("size<=58KB")
    assert not begun(again), "a recorded trial was made again"
    assert values("best", again) == [made] and opened.default_variant("tiny") == best_variant
    assert {variant: opened.current("tiny", variant) for variant in versions} == versions, (
        "not the bundles of its trials"
    )

    opened.promote("tiny", best_variant, others[best_variant])
    opened.remove("tiny", best_variant, versions[best_variant])
    once_more, _ = events("size<=58KB")
    assert values("bundle", once_more), "not made again"
    assert opened.current("tiny", best_variant) == versions[best_variant]

    opened.set_default_variant("tiny", "sparse60")
    failed, stderr = events("size<=16KB", code=7)
    (missed,) = values("trial", failed)
    assert (missed["variant"], missed["meets"]) == ("tiny-sparsity60", False)
    assert f"nearest is tiny at pruning.sparsity=0.6: {best_variant} in the sparse runtime" in stderr
    assert opened.default_variant("tiny") == "sparse60", "a search without a result changed the default"
    shutil.rmtree(store / "tiny")  # without a default, an unfinished search must not set one
    events("size<=16KB", code=7)
    assert opened.default_variant("tiny") == "dense" and opened.has_default("tiny")
    ruled_out, stderr = events("size<=1KB", code=7)
    assert "the token embeddings alone take 0.00" in stderr and not begun(ruled_out)
    assert not values("trial", ruled_out)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--target", "size<=6"], "write latency<=3ms@1x64"),
        (["--target", "size<=6MB", "--variant", "mine"], "remove --variant"),
        (["--target", "latency<=3ms@1x64"], "cannot be measured: the recipe truncates texts to max_length 32"),
        (["--target", "size<=6MB", "--search-levels", "0.9;0.8"], "write numbers with commas"),
        (["--target", "size<=6MB", "--search-levels", "1.2"], "cannot have pruning.sparsity=1.2"),
        (["--target", "size<=6MB", "--search-recipes", "none-such"], "Recipe none-such does not exist"),
        (["--search-recipes", "demo"], "add --target"),
    ],
)
def test_search_refuses_wrong_options(
    compress_tiny: CommandLine, tmp_path: Path, extra: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, compress_tiny(tmp_path / "store", *extra), catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "store" / "tiny").exists()


def test_search_dry_run_prints_the_ladders(compress_tiny: CommandLine, tmp_path: Path) -> None:
    command = compress_tiny(tmp_path / "store", "--target", "size<=6MB", "--search-recipes", "distilbert", "--dry-run")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "distilbert: student.layers of 2, 1; about 2 trials" in result.output
    assert "First trial: tiny at pruning.sparsity=0.85" in result.output
    assert not (tmp_path / "store" / "tiny").exists()


def test_search_skips_impossible_levels_unless_requested(compress_tiny: CommandLine, tmp_path: Path) -> None:
    store, target = tmp_path / "store", ["--target", "size<=6MB", "--dry-run"]
    command = compress_tiny(store, *target, "--search-recipes", "mutual-information")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "mutual-information is not searched at 0.1: " in result.output
    assert "mutual-information: squeeze.heads" in result.output
    command[1] = "mutual-information"
    result = CliRunner().invoke(
        app, [*command[:-1], "demo", "--search-levels", "0.9,0.1", "--set", "max_length=32"], catch_exceptions=False
    )
    assert result.exit_code == 2, result.output
    assert "zero heads" in result.stderr


def test_search_skips_recipes_that_need_more_rows(
    compress_tiny: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparserve.models.search.session.USUAL_RECIPES", ("mutual-information", "distilbert"))
    monkeypatch.setattr("sparserve.models.pipeline.preflight.calibration_rows", lambda total, count, seed: [0, 1])
    command = compress_tiny(tmp_path / "store", "--target", "size<=6MB", "--dry-run")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "The recipe mutual-information is not searched: squeeze.calibration: the rows give" in output
    assert "All training rows are in use: add data, or use the method post-training" in output
    assert "distilbert: student.layers" in output and "mutual-information: squeeze" not in output


def test_search_skips_a_recipe_whose_token_table_is_too_large(compress_tiny: CommandLine, tmp_path: Path) -> None:
    command = compress_tiny(tmp_path / "store", "--target", "size<=2KB", "--search-recipes", "smallest", "--dry-run")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "The recipe tiny is not searched: its token embeddings alone take" in result.output
    assert "First trial: smallest at pruning.sparsity=0.85" in result.output


def test_search_tries_a_target_that_only_dense_int8_may_meet(compress_tiny: CommandLine, tmp_path: Path) -> None:
    options = ["--search-recipes", "", "--set", "quantization.enabled=false", "--dry-run"]
    command = compress_tiny(tmp_path / "store", "--target", "size<=8KB", *options)
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Only the dense int8 baseline can be that small: one trial is made" in result.output
    assert "tiny: pruning.sparsity of 0.5; about 1 trial\n" in result.output
