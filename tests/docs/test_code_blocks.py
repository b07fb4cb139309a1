"""The code blocks of the README and the documentation run as they are printed."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sparserve.models.recipes.schema import Pruning
from tests.support.code_blocks import code_blocks, run_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.thorough
def test_tutorials_run(tmp_path: Path, tiny_checkpoint: Path, templates: Path) -> None:
    for page in ("get-started/compress.md", "get-started/serve.md", "reference/bundle.md", "get-started/canary.md"):
        run_page(DOCS / page, tmp_path, tiny_checkpoint, templates)


@pytest.mark.thorough
def test_readme_runs(tmp_path: Path, tiny_checkpoint: Path, sentiment_csv: Path, templates: Path) -> None:
    (tmp_path / "reviews.csv").write_bytes(sentiment_csv.read_bytes())
    run_page(ROOT / "README.md", tmp_path, tiny_checkpoint, templates)


def test_every_tutorial_and_the_readme_have_tested_blocks() -> None:
    for page in (ROOT / "README.md", DOCS / "get-started/compress.md", DOCS / "get-started/serve.md"):
        assert len(code_blocks(page)) >= 4, page


def test_example_of_a_pruning_method_scores_every_weight() -> None:
    (block,) = code_blocks(DOCS / "develop/add-a-pruning-method.md")
    namespace: dict[str, type] = {}
    exec(block.code, namespace)
    method = namespace["RandomScores"](seed=1)
    method.prepare({"query": nn.Linear(3, 2)}, Pruning())
    scores = method.scores("query")
    assert scores.shape == (2, 3) and torch.equal(scores, method.scores("query"))
