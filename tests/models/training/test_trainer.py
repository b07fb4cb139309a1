"""Training of tiny models: resumption of killed runs, and pruning during training."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional
from transformers import TrainerCallback

from sparserve.models.data.dataset import UNLABELED, Split
from sparserve.models.data.tokenization import Collator, tokenize
from sparserve.models.encoders.checkpoint import load_classifier
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.errors import TrainingError
from sparserve.models.evaluation.scores import evaluate
from sparserve.models.pruning.pruner import MASKS, Pruner, PruningCallback
from sparserve.models.recipes.schema import Distillation, Pruning, Student, Training
from sparserve.models.training import teacher_outputs
from sparserve.models.training.distillation import NetworkOutputs
from sparserve.models.training.student import student_loss
from sparserve.models.training.teacher_outputs import (
    CachedTeacher,
    LiveTeacher,
    RequiredOutputs,
    cache_bytes,
    run_network,
    write_cache,
)
from sparserve.models.training.trainer import (
    ResumableCallback,
    TrainingRows,
    last_complete_checkpoint,
    score,
    train,
)

PRUNING = Pruning(sparsity=0.8, end=0.7, updates=10)


class Killed(BaseException):
    """Simulates kill -9: nothing catches it."""


@pytest.fixture(scope="module")
def rows(tiny_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    texts = [f"the {'good' if row % 2 else 'bad'} movie {'very ' * (row % 7)}{row}" for row in range(60)]
    split = Split(texts, None, [row % 2 for row in range(60)])
    return tokenize(split, AutoTokenizer.from_pretrained(tiny_checkpoint), 32, multi_label=False)


def run(
    network: Any,
    rows: Any,
    folder: Path,
    *,
    stop_after: Any = None,
    pruning: Any = None,
    loss: Any = None,
    **changes: Any,
) -> Any:
    model = copy.deepcopy(network)
    training = Training(
        **{"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 5, "precision": "fp32", **changes}
    )

    def progress(done: Any, total: Any, note: Any) -> None:
        if done == stop_after:
            raise Killed

    def make_callback(checkpoint: Any) -> Any:
        return PruningCallback(model, pruning, resume_from=checkpoint)

    result = train(
        model,
        training,
        TrainingRows(rows, rows, pad_token_id=0, multi_label=False),
        seed=1,
        folder=folder,
        progress=progress,
        loss=loss,
        callbacks=[ResumableCallback(make_callback, MASKS)] if pruning else [],
        keep_best=pruning is None,
    )
    return model, result


def same(first: Any, second: Any) -> Any:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [3, 8, 9, 23])
def test_train_resumes_with_same_weights(network: Any, rows: Any, tmp_path: Path, stop_after: Any) -> None:
    whole, expected = run(network, rows, tmp_path / "whole", pruning=PRUNING)
    with pytest.raises(Killed):
        run(network, rows, tmp_path / "killed", stop_after=stop_after, pruning=PRUNING)
    resumed, result = run(network, rows, tmp_path / "killed", pruning=PRUNING)
    assert result == expected
    assert same(whole, resumed)


def test_train_resumes_with_weights_that_transformers_stores_under_other_names(
    make_checkpoint: Callable[..., Path], rows: Any, tmp_path: Path
) -> None:
    network = load_classifier(make_checkpoint("nomic_bert"), ("a", "b"), "single_label_classification")
    whole, _ = run(network, rows, tmp_path / "whole", epochs=1)
    with pytest.raises(Killed):
        run(network, rows, tmp_path / "killed", epochs=1, stop_after=6)
    resumed, _ = run(network, rows, tmp_path / "killed", epochs=1)
    assert same(whole, resumed)


def test_train_resumed_after_last_step_takes_no_step(network: Any, rows: Any, tmp_path: Path) -> None:
    asked = {"epochs": 2.25, "schedule": "constant", "pruning": PRUNING}
    whole, expected = run(network, rows, tmp_path / "killed", **asked)
    assert (tmp_path / "killed" / "checkpoint-18").is_dir()
    for scores in (True, False):
        if not scores:
            (tmp_path / "killed" / "scores.json").unlink()
        resumed, result = run(network, rows, tmp_path / "killed", **asked)
        assert same(whole, resumed) and result.steps == max(result.scores) == 18
        assert result.scores[18] == expected.scores[18]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("movement", {}),
        ("soft-movement", {"allocation": "global"}),
        ("platon", {}),
        ("obert", {"options": {"gradients": 4}, "updates": 3}),
        ("group-lasso", {"block": (1, 4)}),
        # The kill, after step 8, falls between the batches of an update: checkpoints come every 5 steps.
        ("layerwise-obs", {"updates": 2}),
    ],
)
def test_train_resumes_with_same_weights_for_every_method(
    network: Any, rows: Any, tmp_path: Path, method: Any, changes: Any
) -> None:
    pruning = Pruning(**{**PRUNING.model_dump(), "method": method, "begin": 0.2, **changes})
    whole, _ = run(network, rows, tmp_path / "whole", pruning=pruning, epochs=2)
    with pytest.raises(Killed):
        run(network, rows, tmp_path / "killed", stop_after=8, pruning=pruning, epochs=2)
    resumed, _ = run(network, rows, tmp_path / "killed", pruning=pruning, epochs=2)
    assert same(whole, resumed)
    zeros = sum(int((linear.weight == 0).sum()) for linear in encoder_linears(whole).values())
    assert zeros == pytest.approx(
        0.8 * sum(linear.weight.numel() for linear in encoder_linears(whole).values()), abs=12
    )


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), labels=st.integers(2, 5), multi_label=st.booleans())
def test_score_matches_report(seed: int, rows: Any, labels: Any, multi_label: bool) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(-0.5, 1, (rows, labels)).astype(np.float32)
    truth = generator.random((rows, labels)) < 0.3 if multi_label else generator.integers(0, labels, rows)
    problem_type: Any = "multi_label_classification" if multi_label else "single_label_classification"
    names = [str(label) for label in range(labels)]
    reported = evaluate(
        logits,
        truth.astype(np.int64),
        label_names=names,
        problem_type=problem_type,
        bootstrap_samples=1,
    )
    expected = (reported.macro_f1 if multi_label else reported.accuracy).value
    # The Trainer gathers the labels of a multi-label task as floats.
    given_labels = truth.astype(np.float32) if multi_label else truth
    assert score(logits, given_labels, multi_label=multi_label) == pytest.approx(expected, abs=1e-6)


def test_score_of_one_number_is_the_rank_correlation() -> None:
    truth = np.array([0.0, 1.0, 4.0, 9.0])
    assert score(np.sqrt(truth)[:, None].astype(np.float32), truth, multi_label=False) == 1
    assert score(-truth[:, None].astype(np.float32), truth[:, None], multi_label=True) == -1


def test_score_ignores_absent_labels() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]])
    right = np.where(truth == 1, 2, -2).astype(np.float32)
    assert score(right, truth, multi_label=True) == 1
    assert score(np.abs(right), truth, multi_label=True) < 0.6, "it counts where it is predicted"
    assert score(-np.abs(right), np.zeros_like(truth), multi_label=True) == 0


@pytest.mark.slow
def test_train_resumes_with_same_best_epoch(network: Any, rows: Any, tmp_path: Path) -> None:
    whole, expected = run(network, rows, tmp_path / "whole")
    for stop_after in (8, 12, 17):
        with pytest.raises(Killed):
            run(network, rows, tmp_path / "killed", stop_after=stop_after)
    resumed, result = run(network, rows, tmp_path / "killed")
    assert result == expected
    assert same(whole, resumed)


def test_last_complete_checkpoint_skips_incomplete_ones(network: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(network, rows, tmp_path, stop_after=12, pruning=PRUNING)
    (tmp_path / "checkpoint-10" / MASKS).unlink()
    assert last_complete_checkpoint(tmp_path, [MASKS]).name == "checkpoint-5"
    assert not (tmp_path / "checkpoint-10").exists()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{")
    assert last_complete_checkpoint(tmp_path, [MASKS]) is None


def test_train_prunes_exactly_and_nothing_else(network: Any, rows: Any, tmp_path: Path) -> None:
    model, _ = run(network, rows, tmp_path, pruning=PRUNING)
    for linear in encoder_linears(model).values():
        assert int((linear.weight == 0).sum()) == round(0.8 * linear.weight.numel())
    assert (model.classifier.weight != 0).all()
    assert (model.bert.embeddings.word_embeddings.weight[1:] != 0).any(dim=1).all()


def test_pruner_zeroes_gradients_of_masked_weights(network: Any, rows: Any) -> None:
    model = copy.deepcopy(network)
    pruner = Pruner(model, Pruning(sparsity=0.5, schedule="constant", updates=1, begin=0.0, end=0.0))
    pruner.after(1, 10)
    batch = Collator(0)([rows[0], rows[1]])
    batch.pop("row")
    model(**batch).loss.backward()
    for name, linear in encoder_linears(model).items():
        kept = pruner.masks.kept[name]
        assert bool((linear.weight.grad[~kept] == 0).all())  # type: ignore[index]
        assert bool((linear.weight.grad[kept] != 0).any())  # type: ignore[index]


def test_pruner_save_is_atomic(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = Pruner(copy.deepcopy(network), PRUNING)

    def cut_short(state: Any, path: Any) -> None:
        path.write_bytes(b"half of it")
        raise Killed

    monkeypatch.setattr("sparserve.models.pruning.pruner.save_file", cut_short)
    with pytest.raises(Killed):
        pruner.save(tmp_path / MASKS)
    assert not (tmp_path / MASKS).exists()


def test_train_keeps_frozen_embeddings(network: Any, rows: Any, tmp_path: Path) -> None:
    model, _ = run(network, rows, tmp_path, freeze_embeddings=True, epochs=1)
    before = network.bert.embeddings.word_embeddings.weight
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_train_names_step_of_nan_loss(network: Any, rows: Any, tmp_path: Path) -> None:
    def loss(model: Any, inputs: Any, numbers: Any) -> Any:
        return model(**inputs).loss * float("nan")

    with pytest.raises(TrainingError, match="nan at step 1"):
        run(network, rows, tmp_path, loss=loss)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_train_stops_at_nan_and_keeps_last_good_checkpoint(network: Any, rows: Any, tmp_path: Path, what: Any) -> None:
    steps = 0

    def loss(model: Any, inputs: Any, numbers: Any) -> Any:
        nonlocal steps
        steps += 1
        value = model(**inputs).loss
        if steps == 8:
            # sqrt(0) is 0, its gradient is infinite, and 0 times that is not a number.
            wrong = (value - value.detach()).sqrt() * 0 if what == "gradient" else float("nan")
            return value + wrong
        return value

    with pytest.raises(TrainingError, match=rf"{what}.*nan at step 8; the last good checkpoint is .*checkpoint-5"):
        run(network, rows, tmp_path, loss=loss, pruning=PRUNING)
    weights = load_file(tmp_path / "checkpoint-5" / "model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    assert not (tmp_path / "checkpoint-10").exists()


@pytest.mark.parametrize(("hidden", "attention"), [(True, True), (True, False), (False, False)])
def test_teacher_cache_matches_live_teacher(
    network: Any, rows: Any, tmp_path: Path, hidden: Any, attention: Any
) -> None:
    wanted = RequiredOutputs(hidden=hidden, attention=attention)
    write_cache(tmp_path, network, rows, wanted, pad_token_id=0, progress=lambda *_: None)
    batch = Collator(0)([rows[row] for row in (3, 6, 41)])
    numbers = batch.pop("row")
    cached = CachedTeacher(tmp_path).outputs(numbers, batch)
    live = LiveTeacher(network, wanted).outputs(numbers, batch)
    torch.testing.assert_close(cached.logits, live.logits, atol=1e-5, rtol=1e-5)
    real = batch["attention_mask"].bool()
    assert len(cached.hidden) == (3 if hidden else 0)
    for a, b in zip(cached.hidden, live.hidden, strict=True):
        torch.testing.assert_close(a[real], b[real], atol=5e-3, rtol=5e-3)
        assert not a[~real].any()
    assert len(cached.attention) == (2 if attention else 0)
    pairs = real[:, None, :, None] & real[:, None, None, :]
    for a, b in zip(cached.attention, live.attention, strict=True):
        torch.testing.assert_close(a[pairs.expand_as(a)], b[pairs.expand_as(b)], atol=5e-3, rtol=5e-3)
    size = sum(p.stat().st_size for name in ("hidden", "attention") if (p := tmp_path / f"{name}.npy").exists())
    assert 0 <= size - cache_bytes(rows, wanted, layers=2, hidden=32, heads=4) < 1000


def test_teacher_cache_resumes_after_a_kill(
    network: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path, progress: Any) -> None:
        folder.mkdir(exist_ok=True)
        required = RequiredOutputs(hidden=True, attention=False)
        write_cache(folder, network, rows, required, pad_token_id=0, progress=progress)

    def kill(done: int, total: int, note: str) -> None:
        if done > 40:
            raise Killed

    monkeypatch.setattr(teacher_outputs, "BATCH_ROWS", 10)
    monkeypatch.setattr(teacher_outputs, "RECORDED_ROWS", 40)
    heard: list[int] = []
    write(tmp_path / "whole", lambda *_: None)
    with pytest.raises(Killed):
        write(tmp_path / "killed", kill)
    write(tmp_path / "killed", lambda done, *_: heard.append(done))
    assert heard[0] == 50
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes() for name in names)


def test_student_loss_gives_unlabelled_rows_no_label(network: Any, rows: Any) -> None:
    batch = Collator(0)([rows[row] for row in range(4)])
    numbers = batch.pop("row")
    teacher = LiveTeacher(network, RequiredOutputs(hidden=False, attention=False))
    losses = [
        student_loss(teacher, Distillation(logits=1, hidden=0, attention=0, labels=weight), multi_label=False)
        for weight in (0.0, 1.0)
    ]
    none = {**batch, "labels": torch.full((4,), UNLABELED)}
    assert torch.equal(losses[0](network, batch, numbers), losses[1](network, none, numbers))
    half = {**batch, "labels": batch["labels"].where(torch.arange(4) < 2, UNLABELED)}
    gold = functional.cross_entropy(network(**{**batch, "labels": None}).logits[:2], batch["labels"][:2])
    torch.testing.assert_close(losses[1](network, half, numbers) - losses[0](network, half, numbers), gold / 2)


def test_student_loss_is_zero_for_teacher_itself(network: Any, rows: Any) -> None:
    batch = Collator(0)([rows[row] for row in range(4)])
    numbers = batch.pop("row")
    network.eval()

    class Echo:
        def outputs(self, rows: torch.Tensor, inputs: dict[str, torch.Tensor]) -> NetworkOutputs:
            return run_network(network, inputs, RequiredOutputs(True, True))

    loss = student_loss(Echo(), Distillation(logits=0), multi_label=False)
    assert loss(network, batch, numbers).item() == 0


@pytest.mark.slow
def test_student_loss_teaches(network: Any, rows: Any, tmp_path: Path) -> None:
    teacher, _ = run(network, rows, tmp_path / "teacher")
    wanted = RequiredOutputs(hidden=True, attention=True)
    # The logits' cross-entropy cannot fall under the teacher's own entropy; squared errors can fall to 0.
    loss = student_loss(LiveTeacher(teacher, wanted), Distillation(logits=0), multi_label=False)
    batch = Collator(0)([rows[row] for row in range(20)])
    numbers = batch.pop("row")
    student, _ = run(network, rows, tmp_path / "student", loss=loss, pruning=Pruning(sparsity=0.2), epochs=12)
    with torch.no_grad():
        assert loss(student.eval(), batch, numbers) < 0.5 * loss(network.eval(), batch, numbers)


def test_train_rewinds_learning_rate(network: Any, rows: Any, tmp_path: Path) -> None:
    rates = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any, **kwargs: Any) -> None:
            rates.append(lr_scheduler.get_last_lr()[0])

    student = Student(
        epochs=8, batch_size=8, learning_rate=1e-3, schedule="cosine_restarts", cycles=4, warmup=0, precision="fp32"
    )
    train(
        copy.deepcopy(network), student, TrainingRows(rows, rows, pad_token_id=0, multi_label=False), seed=1,
        folder=tmp_path, progress=lambda *_: None, callbacks=[ResumableCallback(lambda checkpoint: Watch())],
    )  # fmt: skip
    peaks = [step for step, rate in enumerate(rates) if rate == pytest.approx(1e-3)]
    assert peaks == [cycle * len(rates) // 4 for cycle in range(4)]
    assert min(rates) < 1e-4
