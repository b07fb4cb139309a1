"""Predictions of the job, which are those of the bundle that it publishes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserve.classifier import Classifier
from sparserve.models.bundle.inference import probabilities
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.windows import LongTexts
from sparserve.models.data.dataset import Split
from sparserve.models.evaluation.prediction import predict
from tests.support.tiny_bundles import LABELS, MAX_LENGTH, publish

TEXTS = ["good", "good film the bad a dull was fun " * 7, "bad film", "dull " * 40]


@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_predict_has_the_scores_of_the_published_bundle(tmp_path: Path, problem_type: str, aggregate: Any) -> None:
    long_texts = LongTexts(overlong="windows", stride=4, aggregate=aggregate)
    bundle = publish(Store(tmp_path), problem_type=problem_type, long_texts=long_texts)
    logits = predict(
        bundle.model_path,
        bundle.tokenizer_path,
        Split(TEXTS, None, [0] * len(TEXTS)),
        max_length=MAX_LENGTH,
        pad_token_id=0,
        threads=1,
        progress=lambda *_: None,
        long_texts=long_texts,
        problem_type=problem_type,
    )
    answers = Classifier.from_bundle(bundle, threads=1)(TEXTS, top_k=2)
    scores = [{one.label: one.score for one in row} for row in answers]
    expected = [[row[label] for label in LABELS] for row in scores]
    np.testing.assert_allclose(probabilities(logits, problem_type), expected, rtol=1e-5)
