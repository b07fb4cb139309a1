"""Chains: a bigger teacher of another architecture and tokenizer, a dense student of it, and a pruned student."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from sparserve.models.data.loading import load_dataset
from sparserve.models.data.unlabeled import load_unlabeled
from sparserve.models.encoders.any_classifier import AnyClassifier, resolve_classifier
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.pipeline.execution import train_networks
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import plan_job
from sparserve.models.pipeline.preflight import is_another_network
from sparserve.models.pipeline.stages.bigger_teacher import read_teacher_logits
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.loading import load_recipe

QUICK = {"teacher.epochs": 1, "student.epochs": 1, "student.start": "teacher"}


@pytest.fixture(scope="module")
def rembert(sentiment_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RemBERT with a head for the labels of the reviews, and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("bigger") / "rembert"
    words = dict.fromkeys(["<pad>", "<unk>", *sentiment_csv.read_text().replace(",", " ").split()])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "rembert", vocab_size=len(words), max_position_embeddings=40, input_embedding_size=16, **sizes
    )
    config.id2label = {0: "negative", 1: "positive"}
    config.label2id = {"negative": 0, "positive": 1}
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_chain_learns_the_logits_of_another_architecture(
    rembert: Path, whole: Checkpoint, sentiment_csv: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(sentiment_csv)
    (tmp_path / "more.txt").write_text("the plot is great\nthe scene was awful\n")
    recipe, teacher = load_recipe(tiny_recipe, overrides=QUICK), resolve_classifier(str(rembert))
    assert is_another_network(teacher, whole, recipe)
    alone = Job("tiny", recipe, whole, None, dataset, "reviews", 0, 1)
    job = replace(alone, bigger_teacher=teacher, unlabeled=load_unlabeled(tmp_path / "more.txt", dataset))
    plan, context = plan_job(job), Context(Workspace(tmp_path / "work"), PlainReporter())
    names = [step.name for step in plan.steps]
    assert names[:4] == ["bigger teacher", "teacher", "teacher outputs", "student"]
    assert plan.bigger_teacher is not None and plan.bigger_teacher in plan.steps

    logits = read_teacher_logits(context.result(plan.steps[0]))
    texts = [*dataset.train.texts, "the plot is great", "the scene was awful"]
    model = AutoModelForSequenceClassification.from_pretrained(rembert).eval()
    inputs = teacher.tokenizer(texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert len(read_teacher_logits(context.result(plan.bigger_teacher))) == len(dataset.test)

    dense, student = train_networks(plan, context)
    assert dense.model_type == student.model_type == "bert"
    assert plan.teacher.key != plan_job(alone).teacher.key


def test_chain_of_the_same_vocabulary_needs_another_shape(whole: Checkpoint, tiny_recipe: Path, tmp_path: Path) -> None:
    larger = shutil.copytree(whole.folder, tmp_path / "larger")
    config = json.loads((larger / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    teacher = replace(whole, folder=larger)
    from_teacher = load_recipe(tiny_recipe, overrides={"student.start": "teacher"})
    assert is_another_network(teacher, whole, from_teacher)
    assert not is_another_network(whole, whole, from_teacher)
    # A student of the pre-trained checkpoint imitates the hidden states of a larger teacher through a projection.
    assert not is_another_network(teacher, whole, load_recipe(tiny_recipe))


def test_resolve_classifier_refuses_code_and_pickles(rembert: Path, tmp_path: Path) -> None:
    assert isinstance(resolve_classifier(str(rembert)), AnyClassifier)
    copy = shutil.copytree(rembert, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(CheckpointError, match="auto_map is set"):
        resolve_classifier(str(copy))
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no weights in safetensors"):
        resolve_classifier(str(copy))
