"""`Classifier`: texts to labels and scores in this process."""

from pathlib import Path

import numpy as np
import pytest

from sparserve import Bundle, Classifier, Store, load_bundle
from sparserve.kernels.library import Library
from sparserve.models.bundle.inference import softmax
from sparserve.models.errors import BundleError, InputError, StoreError
from tests.support.tiny_bundles import LABELS, TASK, graph, publish

TEXTS = ["a good film", "a bad film", "the film was dull dull dull", "fun", ""]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with two variants; `sparse90` answers for the task."""
    store = Store(tmp_path / "store")
    publish(store, variant="dense")
    publish(store, variant="sparse90", model=graph(seed=1))
    store.set_default_variant(TASK, "sparse90")
    return store


def expected(bundle: Bundle, texts: list[str]) -> list[dict[str, float]]:
    """Return the score of every label, one text at a time."""
    loaded = load_bundle(bundle, threads=1)
    logits = np.concatenate([loaded.classifier.logits(loaded.tokenizer.encode([text])) for text in texts])
    return [dict(zip(LABELS, map(float, row), strict=True)) for row in softmax(logits)]


def test_classifier_returns_the_best_label_of_each_text(store: Store) -> None:
    classify = Classifier.load(store.root, TASK, threads=1)
    assert classify.bundle.manifest.variant == "sparse90"
    assert (classify.labels, classify.runtime) == (LABELS, "onnx")
    for prediction, scores in zip(classify(TEXTS), expected(classify.bundle, TEXTS), strict=True):
        assert prediction.label == max(scores, key=lambda label: scores[label])
        assert prediction.score == pytest.approx(scores[prediction.label], abs=1e-6)


def test_classifier_returns_the_top_k_labels_in_order(store: Store) -> None:
    classify = Classifier.load(store, TASK, "dense")
    for row, scores in zip(classify(TEXTS, top_k=5), expected(classify.bundle, TEXTS), strict=True):
        assert [one.label for one in row] == sorted(scores, key=lambda label: -scores[label])
        assert sum(one.score for one in row) == pytest.approx(1, abs=1e-6)
    assert classify(TEXTS, top_k=1) == [[one] for one in classify(TEXTS)]


def test_classifier_does_not_depend_on_the_batch_size(store: Store) -> None:
    classify = Classifier.load(store, TASK)
    whole, single = classify(TEXTS), classify(TEXTS, batch_size=1)
    assert [one.label for one in whole] == [one.label for one in single]
    assert [one.score for one in whole] == pytest.approx([one.score for one in single], abs=1e-6)
    assert classify([]) == []


def test_classifier_reads_pairs(store: Store) -> None:
    classify = Classifier.load(store, TASK)
    with_pair, without = classify(["a good film", "a good film"], text_pairs=["the film", None])
    (alone,) = classify(["a good film"])
    assert without.label == alone.label
    assert without.score == pytest.approx(alone.score, abs=1e-6)
    assert with_pair.score != pytest.approx(alone.score, abs=1e-6)


def test_classifier_loads_a_folder(store: Store) -> None:
    bundle = store.open(TASK, "dense")
    assert Classifier.from_bundle(str(bundle.folder))(TEXTS) == Classifier.from_bundle(bundle)(TEXTS)
    assert load_bundle(str(bundle.folder)).bundle == bundle
    assert Store(str(store.root)) == store and hash(Store(str(store.root))) == hash(store)


def test_classifier_refuses_wrong_calls(store: Store) -> None:
    classify = Classifier.load(store, TASK)
    with pytest.raises(InputError, match=r"classify\(\[text\]\)"):
        classify("a good film")
    with pytest.raises(InputError, match="2 texts but 1 text_pairs"):
        classify(["a", "b"], text_pairs=["c"])
    with pytest.raises(InputError, match="at least 1"):
        classify(["a"], top_k=0)


def test_classifier_with_one_score_has_no_labels_to_choose_from(store: Store) -> None:
    publish(store, "search", labels=("relevance",), problem_type="multi_label_classification", model=graph(1))
    rank = Classifier.load(store, "search")
    assert rank(["good"], top_k=1) == [rank(["good"])]
    with pytest.raises(InputError, match="top_k is 2, but search/dense has one score for each text and no labels"):
        rank(["good"], top_k=2)


def test_classifier_refuses_what_the_store_lacks(store: Store) -> None:
    with pytest.raises(StoreError, match="no task 'other'"):
        Classifier.load(store, "other")
    with pytest.raises(StoreError, match="no variant 'best95'"):
        Classifier.load(store, TASK, "best95")
    with pytest.raises(BundleError, match="is not a bundle"):
        Classifier.from_bundle(store.root)


def test_classifier_prefers_the_sparse_runtime(tiny_store: Path, sparse_runtime: Library) -> None:
    sparse = Classifier.load(tiny_store, "tiny", "sparse60", runtime="sparse")
    stock = Classifier.load(tiny_store, "tiny", "sparse60", runtime="onnx")
    assert (sparse.runtime, stock.runtime) == ("sparse", "onnx")
    texts = ["the good film", "the awful plot"]
    for one, other in zip(sparse(texts), stock(texts), strict=True):
        assert one.label == other.label
        assert one.score == pytest.approx(other.score, abs=1e-3)
    measured = sparse.bundle.manifest.measurement
    assert measured is not None and measured.sparse is not None
    preferred = "sparse" if measured.sparse.preferred else "onnx"
    assert Classifier.load(tiny_store, "tiny", "sparse60").runtime == preferred


@pytest.mark.parametrize(
    "inputs, pairs, warned", [("pair", False, True), ("single", True, True), ("pair", True, False)]
)
def test_classifier_warns_of_another_kind_of_input(
    store: Store, caplog: pytest.LogCaptureFixture, inputs: str, pairs: bool, warned: bool
) -> None:
    publish(store, "kinds", inputs=inputs)
    Classifier.load(store, "kinds")(["good", "bad"], text_pairs=["fun", "dull"] if pairs else None)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert all("item 0 (and 1 more) is a" in record.message for record in caplog.records)
