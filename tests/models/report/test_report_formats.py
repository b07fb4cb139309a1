"""The report as HTML, Markdown, plots and terminal table: rounded figures and escaped texts."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from sparserve.models.bundle.manifest import (
    BiggerTeacher,
    Interval,
    LearningRateTrial,
    ScoreAgreement,
    ScoreEvaluation,
    TeacherTraining,
    TrainingSettings,
)
from sparserve.models.report.builder import build_report, to_html, to_markdown
from sparserve.models.report.findings import warnings
from sparserve.models.report.plots import matrix_title, plots
from sparserve.models.report.rendering import markdown_text, milliseconds, quantity
from sparserve.models.report.schema import Report
from tests.support.models.reports import TASK, printed, publish_variants


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return build_report(publish_variants(tmp_path), TASK)


def test_html_escapes_texts_and_labels(report: Report) -> None:
    page = to_html(report)
    assert "<script>alert" not in page
    assert "<b>posi" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<script>") == page.count("</script>") == 2


def test_html_makes_no_network_requests(report: Report) -> None:
    page = to_html(report)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)
    assert "@import" not in page
    # plotly.js would offer a button that sends the figures to a cloud.
    assert 'showSendToCloud: false, plotlyServerURL: ""' in page


def test_markdown_table_rows_match_headings(report: Report) -> None:
    text = to_markdown(report)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert "<script>" not in text
    assert not re.search(r"\n{4,}", text)


def test_report_shows_the_effect_of_the_temperature(report: Report) -> None:
    assert "| sparse90 | 1.5 | 40 | 0.125 | 0.062 | 0.500 | 0.250 |" in to_markdown(report)
    assert "<td>1.5</td><td>40</td><td>0.125</td><td>0.062</td><td>0.500</td><td>0.250</td>" in to_html(report)


def one_score(report: Report, spearman: Interval) -> Report:
    """Return the report with the figures of a regression in place of those of labels."""
    agreement = ScoreAgreement(
        reference="0" * 16,
        same_order=Interval(value=0.9, low=0.8, high=1.0),
        spearman=0.8,
        nearer_p=0.5,
        only_reference_nearer=3,
        only_this_nearer=2,
    )
    scores = ScoreEvaluation(rows=40, pearson=spearman, spearman=spearman, mean_squared_error=0.5, agreement=agreement)
    changed = {"evaluation": None, "calibration": None, "score_evaluation": scores}
    variants = tuple(row.model_copy(update=changed) for row in report.variants)
    return report.model_copy(update={"labels": ("score",), "problem_type": "regression", "variants": variants})


def test_report_of_one_score_shows_its_correlation_in_the_summary(report: Report) -> None:
    scored = one_score(report, Interval(value=0.726, low=0.681, high=0.77))
    markdown, page = to_markdown(scored), to_html(scored)
    assert "| variant | Spearman | kept | agreement |" in markdown
    assert "| sparse90 | 0.726 [0.681, 0.770] | - | 90.0\u00a0% |" in markdown
    assert "<td>0.726<small>0.681 to 0.770</small></td>" in page
    assert '<span class="what">Same order</span><b>90.0\u00a0%</b>' in page
    assert "Accuracy against" not in page and "dense classified correctly" not in page
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_report_describes_the_training_of_the_teacher(report: Report) -> None:
    trial = LearningRateTrial(learning_rate=1e-4, steps=10, loss=0.5)
    settings = TrainingSettings(learning_rate=1e-4, epochs=4, batch_size=16, class_weights=True, trials=(trial,) * 6)
    course = TeacherTraining(settings=settings, epochs=6, best_epoch=5.5, scores=(0.5, 0.7), still_rising=False)
    dense, *others = report.variants
    trained = report.model_copy(update={"variants": (dense.model_copy(update={"teacher_training": course}), *others)})
    sentence = (
        "6 epochs in batches of 16 at a learning rate of 0.0001, the best of 6 trials, with class weights; best on "
        "validation (0.700) after 5.5"
    )
    assert f"Training of dense: {sentence}." in to_markdown(trained)
    assert f"<dd>{sentence}</dd>" in to_html(trained)


def test_report_warns_of_scores_that_are_those_of_chance(report: Report) -> None:
    assert warnings(one_score(report, Interval(value=0.3, low=0.1, high=0.5))) == []
    (warning,) = warnings(one_score(report, Interval(value=0.1, low=-0.1, high=0.3)))
    assert "hardly orders the test rows" in warning and "0.100 [-0.100, 0.300]" in warning


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a|b", r"a\|b"),
        ("a\r\n b\tc", "a b c"),
        ("<i> & *x* [y](z) `c` ~~d~~", r"&lt;i&gt; &amp; \*x\* \[y\](z) \`c\` \~\~d\~\~"),
        ("LABEL_0 _em_", r"LABEL_0 \_em\_"),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"\1. no list"),
        ("back\\|slash", r"back\\\|slash"),
        ("5-star, 3 > 2 😀", "5-star, 3 &gt; 2 😀"),
    ],
)
def test_markdown_text_escapes_markup(text: Any, markdown: Any) -> None:
    assert markdown_text(text) == markdown


def test_plots_are_valid_plotly_figures(report: Report) -> None:
    found = plots(report)
    assert list(found) == ["latency", "size", "sparsity"]
    assert next(iter(found["latency"])) == "batch 1, 64 tokens"
    assert list(found["size"]) == ["zipped", "as stored"]
    assert next(iter(found["sparsity"])) == "sparse90"
    for choices in found.values():
        for figure in choices.values():
            # The page resolves its own colour variables; plotly itself knows only colours.
            go.Figure(json.loads(re.sub(r"var\(--[a-z0-9-]+\)", "#123456", json.dumps(figure))))
    heat = found["sparsity"]["sparse90"]["data"][0]
    assert heat["x"] == ["query", "FFN out"]
    assert np.allclose(heat["z"], 90)


def test_sparsity_plot_counts_squeezed_weights_as_removed(report: Report) -> None:
    def halved(matrix: Any) -> Any:
        half = matrix.parameters // 2
        return matrix.model_copy(update={"parameters": half, "nonzero": half, "sparsity": 0.0})

    rows = [
        row.model_copy(update={"matrices": tuple(map(halved, row.matrices))}) if row.variant == "sparse90" else row
        for row in report.variants
    ]
    found = plots(report.model_copy(update={"variants": tuple(rows)}))["sparsity"]
    assert np.allclose(found["sparse90"]["data"][0]["z"], 50)
    assert np.allclose(found["dense"]["data"][0]["z"], 0)


def test_matrix_title_is_short() -> None:
    assert matrix_title("attention.q_lin") == "query"
    assert matrix_title("mlp.Wi") == "mlp.Wi"


def test_terminal_table_has_summary(report: Report) -> None:
    text = printed(report)
    assert "sparse90-int8 *" in text
    assert "90.0 [" in text
    assert "2.00" in text
    assert "1 x 64" in text


def test_report_of_a_chain_begins_with_its_bigger_teacher(report: Report) -> None:
    dense, *others = report.variants
    evaluation = dense.evaluation
    assert evaluation is not None
    teacher = BiggerTeacher(
        name="big|bert",
        architecture="bert",
        digest="0" * 64,
        parameters=110_000_000,
        evaluation=evaluation.model_copy(update={"accuracy": Interval(value=0.9876, low=0.95, high=1.0)}),
    )
    lineage = dense.lineage.model_copy(update={"bigger_teacher": teacher})
    chain = report.model_copy(update={"variants": (dense.model_copy(update={"lineage": lineage}), *others)})
    table = to_html(chain).partition('aria-label="Summary"')[2].partition("</table>")[0]
    shown = {
        to_markdown(chain): (
            r"| bigger teacher, big\|bert | 98.8 [95.0, 100.0] | | | | 440.0 | | | | |",
            "| dense | 100.0 [",
            "| sparse90 | 90.0 [",
        ),
        " ".join(re.sub("<[^>]+>", " ", table).split()): (
            "bigger teacher big|bert 98.8 95.0 to 100.0 440.0 ",
            " dense 100.0 100.0 to 100.0 ",
            " sparse90 90.0 ",
        ),
        " ".join(re.sub("│", " ", printed(chain)).split()): (
            "bigger teacher 98.8 [95.0, 100.0] 440.0 ",
            " dense 100.0 [",
            " sparse90 90.0 [",
        ),
    }
    for text, rows in shown.items():
        places = [text.find(row) for row in rows]
        assert -1 < places[0] < places[1] < places[2], text


def test_quantities_are_short() -> None:
    assert quantity(2_869_200_384) == "2.87\u00a0G"
    assert quantity(22_713_600) == "22.7\u00a0M"
    assert quantity(423_086_592) == "423\u00a0M"
    assert quantity(999) == "999"
    assert [milliseconds(s) for s in (0.00457, 0.0137, 0.4364, 1.5)] == ["4.57", "13.7", "436", "1,500"]
