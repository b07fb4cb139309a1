"""A bundle's graph: the padding of a batch, and its size."""

from pathlib import Path

import pytest

from sparserve.models.bundle.inference import OnnxClassifier, memory_batches
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.text_tokenizer import Tokens
from tests.support.tiny_bundles import publish


@pytest.fixture
def classifier(tmp_path: Path) -> OnnxClassifier:
    bundle = publish(Store(tmp_path))
    return OnnxClassifier(bundle.model_path, pad_token_id=7, threads=1)


def test_pad_fills_rows_to_the_longest(classifier: OnnxClassifier) -> None:
    batch = [Tokens([5, 6], None, False), Tokens([1, 2, 3], [0, 1, 1], False), Tokens([4], None, True)]
    inputs = classifier.pad(batch)
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [1, 2, 3], [4, 7, 7]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert set(inputs) == set(classifier.input_names)
    assert all(value.dtype == "int64" for value in inputs.values())
    classifier.input_names |= {"token_type_ids"}
    assert classifier.pad(batch)["token_type_ids"].tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert classifier.pad(batch[:1])["token_type_ids"].tolist() == [[0, 0]]


def test_a_failed_run_prints_nothing(classifier: OnnxClassifier, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="out of data bounds"):
        classifier.logits([Tokens([10**6], None, False)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "lengths, rows, sizes",
    [
        ([], 32, []),
        ([512] * 70, 32, [32, 32, 6]),
        ([1024] * 20, 32, [8, 8, 4]),
        ([8192, 8192, 16, 16], 32, [1, 1, 2]),
        ([16] * 31 + [8192, 16], 32, [31, 1, 1]),
        ([4096, 4096], 1, [1, 1]),
    ],
)
def test_memory_batches_are_smaller_of_long_inputs(lengths: list[int], rows: int, sizes: list[int]) -> None:
    batches = list(memory_batches(lengths, rows))
    assert [batch.stop - batch.start for batch in batches] == sizes
    assert [place for batch in batches for place in range(batch.start, batch.stop)] == list(range(len(lengths)))
