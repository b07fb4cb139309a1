"""The tables of docs/how-to/choose-a-recipe.md on the speed of training."""

import json
from typing import Any

from benchmarks.training_speed import PAGE, PLAIN, RESULTS, content


def result(**seconds: list[float]) -> dict[str, Any]:
    named = {PLAIN if title == "plain" else title: values for title, values in seconds.items()}
    return {
        "machine": {"cpu": "a processor"},
        "measured_at": "2026-12-01T00:00:00+00:00",
        "tasks": {"mrpc": {"rows": 2, "tokens": 1000, "seconds": named}},
    }


def test_table_has_the_median_without_the_first_pass() -> None:
    text = content({"bf16": result(plain=[50.0, 4.0, 5.0, 3.0], ours=[1.0, 2.0, 2.0, 9.0])})
    assert "With bf16, on a processor, 2026-12-01, mrpc (2 rows, 1,000 tokens)" in text
    assert f"| {PLAIN} | 250 (1.00) |" in text
    assert "| ours | 500 (2.00) |" in text


def test_table_of_each_precision() -> None:
    text = content({"fp32": result(plain=[1.0, 1.0]), "bf16": result(plain=[1.0, 1.0])})
    assert text.index("With bf16") < text.index("Without bf16")


def test_page_has_the_recorded_results() -> None:
    assert content(json.loads(RESULTS.read_bytes())) in PAGE.read_text(encoding="utf-8")
