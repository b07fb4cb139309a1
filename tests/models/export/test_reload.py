import numpy as np
import pytest
import torch

from sparserve.models.bundle.bundle import write_bundle
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.encoders.checkpoint import save_classifier
from sparserve.models.encoders.squeezing import squeeze
from sparserve.models.encoders.structure import STRUCTURE, Structure
from sparserve.models.errors import BundleError, CheckpointError
from sparserve.models.export.reload import load_bundle_model
from sparserve.models.export.token_table import shrink_embeddings
from sparserve.models.recipes.schema import Embeddings
from tests.support.models.exporting import LABELS, classifier
from tests.support.tiny_bundles import graph, manifest, tokenizer_json


@pytest.fixture(scope="module")
def squeezed(make_checkpoint, tmp_path_factory):
    """A squeezed network, and the folder of its checkpoint."""
    model, folder = classifier(make_checkpoint("bert")), tmp_path_factory.mktemp("squeezed")
    squeeze(model, Structure(heads=((0, 3), (1,)), units=((7, 9), (0, 1, 2))))
    save_classifier(model, folder)
    return model, folder


def bundle(parent, folder, *, model=None, **changes):
    files = {"model.onnx": model or graph(), "tokenizer.json": tokenizer_json()}
    checkpoint = {f"checkpoint/{path.name}": path for path in folder.iterdir()} if folder else {}
    return write_bundle(parent, manifest(**{"labels": LABELS, **changes}), files | checkpoint).folder


def test_a_bundle_gives_back_its_network(squeezed, tmp_path):
    model, folder = squeezed
    found = load_bundle_model(bundle(tmp_path, folder, problem_type="multi_label_classification"))
    ids = torch.randint(5, 40, (2, 7))
    torch.testing.assert_close(found(ids).logits, model(ids).logits)
    assert not found.training
    assert found.config.problem_type == "multi_label_classification"
    assert tuple(found.config.id2label.values()) == LABELS


@pytest.mark.parametrize(
    "settings", [{"vocabulary": "training"}, {"rank": 8}, {"vocabulary": "training", "rank": 8}], ids=str
)
def test_the_network_answers_as_a_graph_whose_token_table_is_smaller(bert, tmp_path, settings):
    save_classifier(bert.model, tmp_path / "checkpoint")
    counts = np.zeros(bert.model.config.vocab_size, np.int64)
    counts[5:45:2] = 1
    target = tmp_path / "model.onnx"
    table = shrink_embeddings(bert.path, target, Embeddings(**settings), counts=counts, always_keep=(0, 2, 3))
    found = load_bundle_model(bundle(tmp_path, tmp_path / "checkpoint", model=target, token_table=table))
    ids = torch.arange(5, 45).reshape(4, 10)
    graphs = OnnxClassifier(target, pad_token_id=0, threads=1)
    inputs = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    logits = torch.from_numpy(graphs.run({name: values.numpy() for name, values in inputs.items()}))
    torch.testing.assert_close(found(**inputs).logits.detach(), logits, atol=1e-5, rtol=0)
    assert (bert.model(**inputs).logits.detach() - logits).abs().max() > 1e-3


def test_a_bundle_without_a_checkpoint_names_the_way_out(tmp_path):
    with pytest.raises(CheckpointError, match=r"'dense-int8'; take the fp32 variant"):
        load_bundle_model(bundle(tmp_path, None, variant="dense-int8"))


def test_a_checkpoint_of_other_labels_is_refused(squeezed, tmp_path):
    with pytest.raises(CheckpointError, match="predicts 3 labels, its manifest has 2"):
        load_bundle_model(bundle(tmp_path, squeezed[1], labels=("no", "yes")))


def test_a_changed_structure_is_refused_before_anything_is_built(squeezed, tmp_path):
    folder = bundle(tmp_path, squeezed[1])
    Structure(heads=((0, 2), (1,)), units=((7, 9), (0, 1, 2))).save(folder / "checkpoint")
    with pytest.raises(BundleError, match=rf"checkpoint/{STRUCTURE}.*SHA-256"):
        load_bundle_model(folder)
