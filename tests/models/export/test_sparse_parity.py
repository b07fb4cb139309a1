"""A network whose parameters look familiar but that computes something else is served by model.onnx alone."""

from functools import partial

import pytest

from sparserve.models.bundle.bundle import SPARSE_MODEL
from sparserve.models.encoders.checkpoint import resolve_checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.sparse_parity import check_packed
from sparserve.models.pipeline.stages.pack import NOT_PACKED, PACKED, pack_checkpoint
from sparserve.models.recipes.schema import Quantization
from tests.support.models.exporting import ENCODERS


def check(path, model, library):
    config = model.config
    pack = partial(
        write_sparse_graph,
        path,
        head_size=config.hidden_size // config.num_attention_heads,
        values="fp32",
        embeddings_int8=False,
    )
    check_packed(
        path,
        pack,
        library=library.path,
        vocabulary=config.vocab_size,
        pad_token_id=config.pad_token_id,
        max_length=48,
    )


@pytest.mark.parametrize("model_type", ENCODERS)
def test_every_encoder_passes_and_nothing_is_left_behind(sparse_runtime, exported_encoder, model_type):
    made = exported_encoder(model_type)
    before = sorted(made.path.parent.iterdir())
    check(made.path, made.model, sparse_runtime)
    assert sorted(made.path.parent.iterdir()) == before


def test_attention_that_looks_back_only_is_found_by_its_answers(sparse_runtime, changed_bert):
    path, model = changed_bert(is_decoder=True)
    with pytest.raises(CheckpointError, match=r"answers differ by .* something that the runtime does not know"):
        check(path, model, sparse_runtime)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("quantization", [None, Quantization()])
def test_such_a_network_is_not_packed_and_the_reason_is_kept(make_checkpoint, changed_bert, tmp_path, quantization):
    path, model = changed_bert(is_decoder=True)
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    for file in make_checkpoint("bert").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    pack_checkpoint(
        tmp_path,
        path,
        checkpoint=resolve_checkpoint(str(folder)),
        quantization=quantization,
        max_length=48,
        library=None,  # found without it, too
    )
    assert "is_decoder" in (tmp_path / NOT_PACKED).read_text()
    assert not (tmp_path / SPARSE_MODEL).exists()
    assert not (tmp_path / PACKED).exists()
