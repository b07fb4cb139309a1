"""`sparserve compress --target`: a search for real, and what is said of one that cannot be made."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.models.bundle.store import Store


def test_a_search_publishes_its_trials_answers_with_the_best_and_goes_on_from_its_record(
    tiny_store, compress_tiny, sparse_runtime, tmp_path
):
    store = shutil.copytree(tiny_store, tmp_path / "store")  # its networks are trained already
    opened, best_variant = Store(store), "tiny-sparsity60-int8"
    options = ["--search-recipes", "", "--search-levels", "0.6", "--json"]

    def events(*targets, code=0):
        wanted = [word for target in ("latency<=10s@2x16", *targets) for word in ("--target", target)]
        result = CliRunner().invoke(app, compress_tiny(store, *options, *wanted), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return [json.loads(line) for line in result.stdout.splitlines()], " ".join(result.stderr.split())

    def values(name, found):
        return [event["value"] for event in found if event.get("name") == name]

    def begun(found):
        return {event["step"] for event in found if event["event"] == "begin"}

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
    assert not begun(again), "what is on record was begun again"
    assert values("best", again) == [made] and opened.default_variant("tiny") == best_variant
    assert {variant: opened.current("tiny", variant) for variant in versions} == versions, "not the bundles it judged"

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
    assert opened.default_variant("tiny") == "sparse60", "a search that finds nothing changes what answers"
    shutil.rmtree(store / "tiny")  # nobody has chosen what answers: not a trial that was never judged
    events("size<=16KB", code=7)
    assert opened.default_variant("tiny") == "dense" and opened.has_default("tiny")
    ruled_out, stderr = events("size<=1KB", code=7)
    assert "the token embeddings alone take 0.00" in stderr and not begun(ruled_out)
    assert not values("trial", ruled_out)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--target", "size<=6"], "write latency<=3ms@1x64"),
        (["--target", "size<=6MB", "--variant", "mine"], "leave --variant out"),
        (["--target", "latency<=3ms@1x64"], "cannot be measured: the recipe cuts texts at max_length 32"),
        (["--target", "size<=6MB", "--search-levels", "0.9;0.8"], "write numbers with commas"),
        (["--target", "size<=6MB", "--search-levels", "1.2"], "cannot have pruning.sparsity=1.2"),
        (["--target", "size<=6MB", "--search-recipes", "none-such"], "Recipe none-such does not exist"),
        (["--search-recipes", "demo"], "add --target"),
    ],
)
def test_a_search_that_is_asked_for_wrongly_says_the_way_out_and_makes_nothing(compress_tiny, tmp_path, extra, message):
    result = CliRunner().invoke(app, compress_tiny(tmp_path / "store", *extra), catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "store" / "tiny").exists()


def test_a_dry_run_of_a_search_says_its_ladders_and_makes_nothing(compress_tiny, tmp_path):
    command = compress_tiny(tmp_path / "store", "--target", "size<=6MB", "--search-recipes", "distilbert", "--dry-run")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "distilbert: student.layers of 2, 1; about 2 trials" in result.output
    assert "First trial: tiny at pruning.sparsity=0.85" in result.output
    assert not (tmp_path / "store" / "tiny").exists()


def test_levels_that_the_network_cannot_have_are_left_out_unless_they_were_asked_for(compress_tiny, tmp_path):
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


def test_recipes_for_which_the_data_has_too_few_rows_are_left_out_at_once(compress_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("sparserve.models.search.session.USUAL_RECIPES", ("mutual-information", "distilbert"))
    monkeypatch.setattr("sparserve.models.pipeline.preflight.calibration_rows", lambda total, count, seed: [0, 1])
    command = compress_tiny(tmp_path / "store", "--target", "size<=6MB", "--dry-run")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "The recipe mutual-information is not searched: squeeze.calibration: the rows give" in said
    assert "the data has no more training rows: give more, or squeeze by post-training" in said
    assert "distilbert: student.layers" in said and "mutual-information: squeeze" not in said


def test_a_recipe_whose_token_table_alone_is_too_large_is_left_out_and_the_others_are_searched(compress_tiny, tmp_path):
    command = compress_tiny(tmp_path / "store", "--target", "size<=2KB", "--search-recipes", "smallest", "--dry-run")
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "The recipe tiny is not searched: its token embeddings alone take" in result.output
    assert "First trial: smallest at pruning.sparsity=0.85" in result.output


def test_a_target_that_only_the_dense_int8_file_may_meet_is_searched(compress_tiny, tmp_path):
    options = ["--search-recipes", "", "--set", "quantization.enabled=false", "--dry-run"]
    command = compress_tiny(tmp_path / "store", "--target", "size<=8KB", *options)
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Only the dense int8 baseline may be as small: one trial is made" in result.output
    assert "tiny: pruning.sparsity of 0.5; about 1 trial\n" in result.output
