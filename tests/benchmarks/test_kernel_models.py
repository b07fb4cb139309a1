from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import load, numpy_helper

from benchmarks.kernels.arms import FP32, INT8, PEER_SPARSITY, models, trained_models, with_zeros, write_peers
from benchmarks.kernels.dense_encoders import EncoderShape, random_classifier
from benchmarks.kernels.modern_encoders import random_modern_classifier
from benchmarks.kernels.run import inputs, multiply_adds, run_once

TINY = EncoderShape("tiny", layers=2, hidden=32, heads=4, intermediate=64, vocabulary=600)


@pytest.mark.parametrize("block", [1, 4])
def test_with_zeros_is_exact_in_whole_blocks(block: Any) -> None:
    weight = np.random.default_rng(0).standard_normal((24, 32)).astype(np.float32)
    zeros = (with_zeros(weight, 0.75, 1, block=block) == 0).reshape(24, -1, block)
    assert zeros.mean() == 0.75
    assert np.array_equal(zeros.all(-1), zeros.any(-1))
    assert np.array_equal(with_zeros(weight, 0.75, 1, block=block), with_zeros(weight, 0.75, 1, block=block))
    assert np.array_equal(with_zeros(weight, 0, 1), weight)


@pytest.mark.thorough
def test_models_match_arm_names(sparse_runtime: Any, tmp_path: Path) -> None:
    network = random_classifier(TINY, 0)
    arms = dict(models(network, TINY, tmp_path))
    feed = inputs(2, 7, TINY.vocabulary)
    answers = {}
    for name, model in arms.items():
        answers[name] = run_once(model.session(1, sparse_runtime.path), feed)
    assert answers["dense fp32"] == pytest.approx(answers[FP32], abs=1e-5)
    assert answers["55 % fp32"] != pytest.approx(answers[FP32], abs=1e-5)
    assert arms["95 % 1x4 int8"].encoder_bytes < arms["95 % int8"].encoder_bytes < arms["55 % int8"].encoder_bytes
    assert answers["95 % int8, int8 attention"] == pytest.approx(answers["95 % int8"], abs=0.05)
    assert not np.array_equal(answers["95 % int8, int8 attention"], answers["95 % int8"])
    parameters = sum(p.numel() for name, p in network.named_parameters() if "encoder.layer" in name)
    assert arms[FP32].encoder_bytes == 4 * parameters


@pytest.mark.slow
def test_write_peers_prunes_deepsparse_only(tmp_path: Path) -> None:
    for kind, path in write_peers(random_classifier(TINY, 0), tmp_path).items():
        weights = [numpy_helper.to_array(t) for t in load(path).graph.initializer if t.dims in ([32, 64], [64, 32])]
        assert len(weights) == 2 * TINY.layers
        for weight in weights:
            expected = PEER_SPARSITY if kind == "deepsparse" else 0
            assert np.mean(weight == 0) == pytest.approx(expected, abs=1 / weight.size)


def test_multiply_adds_of_last_layer() -> None:
    batch, length = 2, 5
    linears = attention = 0
    for layer in range(TINY.layers):
        for token in range(length):
            linears += 2 * TINY.hidden**2  # key and value
            if layer < TINY.layers - 1 or token == 0:
                linears += 2 * TINY.hidden**2 + 2 * TINY.hidden * TINY.intermediate
                attention += 2 * length * TINY.hidden  # scores, and the values' mean
    assert multiply_adds(TINY, batch, length, 0) == {"linears": batch * linears, "attention": batch * attention}
    assert multiply_adds(TINY, batch, length, 0.75)["linears"] == batch * linears // 4


@pytest.mark.thorough
def test_models_of_newer_families_run(sparse_runtime: Any, tmp_path: Path) -> None:
    tiny = replace(TINY, family="modernbert")
    arms = dict(models(random_modern_classifier(tiny, 0), tiny, tmp_path))
    feed = inputs(2, 7, tiny.vocabulary)
    answers = {name: run_once(model.session(1, sparse_runtime.path), feed) for name, model in arms.items()}
    assert list(answers)[:2] == [FP32, INT8]
    assert answers["dense int8"] == pytest.approx(answers[FP32], abs=0.05)
    assert arms["95 % int8"].encoder_bytes < arms["90 % int8"].encoder_bytes < arms[INT8].encoder_bytes


@pytest.mark.slow
def test_trained_models_have_the_accuracy_of_their_files(sparse_runtime: Any, tiny_store: Path, tmp_path: Path) -> None:
    arms = dict(trained_models(tiny_store, "tiny", tmp_path))
    assert {FP32, INT8, "dense-int8 in ORT", "sparse60 in ORT", "sparse60, attention fp32"} <= set(arms)
    assert arms[INT8].accuracy is None, "the bundle's int8 graph is another one"
    assert arms["sparse60, attention fp32"].accuracy == pytest.approx(arms["sparse60 in ORT"].accuracy, abs=1e-5)
    feed = inputs(2, 7, 30)
    answers = {name: run_once(model.session(1, sparse_runtime.path), feed) for name, model in arms.items()}
    assert answers["sparse60, attention fp32"] == pytest.approx(answers["sparse60 in ORT"], abs=1e-4)
