"""The plots of a report, as plotly.js figures in plain data.

Colours are written as `var(--name)`; the page resolves them against its theme, so plots follow light and dark mode.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparserve.models.bundle.variants import DENSE
from sparserve.models.report.schema import Matrix, Report, Speed, VariantReport

Figure = dict[str, Any]
Choices = dict[str, Figure]

# Parameter names of the six matrices of a transformer layer by architecture, in order of execution.
_MATRIX_TITLES = {
    "query": ("attention.self.query", "attention.q_lin", "attention.attn.q", "attention.self.query_proj"),
    "key": ("attention.self.key", "attention.k_lin", "attention.attn.k", "attention.self.key_proj"),
    "value": ("attention.self.value", "attention.v_lin", "attention.attn.v", "attention.self.value_proj"),
    "attention out": ("attention.output.dense", "attention.out_lin", "attention.attn.o"),
    "FFN in": ("intermediate.dense", "ffn.lin1"),
    "FFN out": ("output.dense", "ffn.lin2"),
}
_TITLE_OF = {name: title for title, names in _MATRIX_TITLES.items() for name in names}
_SERIES = (("fp32", "var(--fp32)", "circle"), ("int8", "var(--int8)", "diamond"))


def plots(report: Report) -> dict[str, Choices]:
    """Return the plots "latency", "size" and "sparsity", each with its figures by title.

    A plot without figures is omitted.
    """
    by_name = {"latency": latency_plots(report), "size": size_plots(report), "sparsity": sparsity_plots(report)}
    return {name: choices for name, choices in by_name.items() if choices}


def latency_plots(report: Report) -> Choices:
    """Plot accuracy against median latency, one figure per grid cell. Bars show the 95 % interval and p95."""
    cells = sorted(report.cells, key=lambda cell: (cell != report.cell, cell))
    choices = {}
    for cell in cells:
        rows = [row for row in report.variants if row.evaluation and row.speed(cell)]
        if not rows:
            continue
        batch, length = cell
        figure = _scatter(
            rows,
            x=lambda row, cell=cell: 1000 * row.speed(cell).p50_seconds,  # type: ignore[misc]
            x_title="median latency, ms (lower is better)",
            hover=lambda row, cell=cell: _latency_hover(row, cell),  # type: ignore[misc]
            x_reach=lambda row, cell=cell: 1000 * (row.speed(cell).p95_seconds - row.speed(cell).p50_seconds),  # type: ignore[misc]
        )
        figure["data"] += _sparse_traces(rows, cell)
        choices[f"batch {batch}, {length} tokens"] = figure
    return choices


def _sparse_traces(rows: Sequence[VariantReport], cell: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the traces of the sparse runtime: stars in the colour of their precision."""
    traces = []
    for precision, colour, _ in _SERIES:
        members = [
            (row.variant, row.sparse.accuracy, speed)
            for row in rows
            if row.precision == precision and row.sparse and (speed := row.sparse.speed(cell))
            if row.sparse.accuracy is not None
        ]
        if not members:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": f"{precision}, sparse runtime",
                "x": [round(1000 * speed.p50_seconds, 4) for _, _, speed in members],
                "y": [100 * accuracy for _, accuracy, _ in members],
                "text": [variant for variant, _, _ in members],
                "textposition": "bottom right",
                "textfont": {"color": "var(--ink)", "size": 12},
                "hovertext": [
                    f"<b>{variant}</b> in the sparse runtime<br>accuracy {100 * accuracy:.1f} %<br>{_speed_text(speed)}"
                    for variant, accuracy, speed in members
                ],
                "hoverinfo": "text",
                "cliponaxis": False,
                "marker": {"size": 14, "color": colour, "symbol": "star"},
            }
        )
    return traces


def size_plots(report: Report) -> Choices:
    """Plot accuracy against the size of the ONNX file, zipped and as stored."""
    rows = [row for row in report.variants if row.evaluation]
    if not rows:
        return {}

    def hover(row: VariantReport) -> str:
        return (
            f"<b>{row.variant}</b><br>{_accuracy_text(row)}<br>{row.sizes.onnx / 1e6:.1f} MB, "
            f"zipped {row.sizes.onnx_zipped / 1e6:.1f} MB"
        )

    title = "model file, MB (lower is better)"
    return {
        "zipped": _scatter(rows, x=lambda row: row.sizes.onnx_zipped / 1e6, x_title=title, hover=hover),
        "as stored": _scatter(rows, x=lambda row: row.sizes.onnx / 1e6, x_title=title, hover=hover),
    }


def sparsity_plots(report: Report) -> Choices:
    """Plot the removed fraction of every encoder matrix, one heat map per variant, smallest variant first.

    Removed weights are zeros and, in a squeezed variant, the difference to dense's matrix of the same layer.
    """
    dense = next((row for row in report.variants if row.variant == DENSE), None)
    whole = {(m.layer, m.matrix): m.parameters for m in dense.matrices} if dense else {}
    rows = sorted(report.variants, key=lambda row: row.encoder_kept.weights if row.encoder_kept else 1.0)
    return {row.variant: _heat_map(row, whole) for row in rows if row.matrices}


def matrix_title(name: str) -> str:
    """Return a short title for the name of a matrix inside its layer, such as "query" for `attention.self.query`."""
    return _TITLE_OF.get(name, name)


def _scatter(
    rows: Sequence[VariantReport],
    *,
    x: Callable[[VariantReport], float],
    x_title: str,
    hover: Callable[[VariantReport], str],
    x_reach: Callable[[VariantReport], float] | None = None,
) -> Figure:
    traces = []
    for precision, colour, symbol in _SERIES:
        members = [row for row in rows if row.precision == precision]
        if not members:
            continue
        accuracies = [row.evaluation.accuracy for row in members if row.evaluation]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers+text",
            "name": precision,
            "x": [round(x(row), 4) for row in members],
            "y": [100 * accuracy.value for accuracy in accuracies],
            "text": [row.variant for row in members],
            "textposition": "top right",
            "textfont": {"color": "var(--ink)", "size": 12},
            "hovertext": [hover(row) for row in members],
            "hoverinfo": "text",
            "cliponaxis": False,
            "marker": {
                "size": 12,
                "color": colour,
                "symbol": [f"{symbol}-open" if not row.pruned else symbol for row in members],
                "line": {"width": 2, "color": colour},
            },
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [100 * (accuracy.high - accuracy.value) for accuracy in accuracies],
                "arrayminus": [100 * (accuracy.value - accuracy.low) for accuracy in accuracies],
                **_bars(colour),
            },
        }
        if x_reach is not None:
            reach = [round(max(x_reach(row), 0), 4) for row in members]
            trace["error_x"] = {
                "type": "data", "symmetric": False, "array": reach, "arrayminus": [0] * len(reach), **_bars(colour)
            }  # fmt: skip
        traces.append(trace)
    widest = max(x(row) + (x_reach(row) if x_reach else 0) for row in rows)
    layout = {
        "xaxis": {"title": {"text": x_title}, "range": [0, 1.18 * widest], **_axis()},
        "yaxis": {"title": {"text": "accuracy, %"}, **_axis()},
        "legend": {"orientation": "h", "y": 1.12, "x": 0, "font": {"color": "var(--ink)"}},
        "height": 400,
        "margin": {"l": 60, "r": 30, "t": 30, "b": 55},
    }
    return {"data": traces, "layout": layout}


def _heat_map(row: VariantReport, whole: Mapping[tuple[int, str], int]) -> Figure:
    def removed(matrix: Matrix) -> float:
        before = max(whole.get((matrix.layer, matrix.matrix), 0), matrix.parameters)
        return 100 * (1 - matrix.nonzero / before)

    order = list(_MATRIX_TITLES)
    layers = sorted({matrix.layer for matrix in row.matrices})
    titles = sorted(
        {matrix_title(matrix.matrix) for matrix in row.matrices},
        key=lambda title: (order.index(title) if title in order else len(order), title),
    )
    by_place = {(matrix.layer, matrix_title(matrix.matrix)): matrix for matrix in row.matrices}
    places = [[by_place.get((layer, title)) for title in titles] for layer in layers]
    trace = {
        "type": "heatmap",
        "x": titles,
        "y": [f"layer {layer}" for layer in layers],
        "z": [[None if m is None else round(removed(m), 3) for m in line] for line in places],
        "text": [["" if m is None else f"{removed(m):.1f}" for m in line] for line in places],
        "customdata": [[0 if m is None else m.nonzero for m in line] for line in places],
        "texttemplate": "%{text}",
        "hovertemplate": "%{y}, %{x}<br>%{z:.2f} % removed, %{customdata:,} weights kept<extra></extra>",
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[0, "var(--heat-0)"], [0.5, "var(--heat-50)"], [1, "var(--heat-100)"]],
        "colorbar": {"title": {"text": "% removed"}, "thickness": 12, "outlinewidth": 0},
        "xgap": 2,
        "ygap": 2,
    }
    layout = {
        "xaxis": {"type": "category", "side": "top", "showgrid": False, "tickangle": 0, "automargin": True},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True},
        "height": 110 + 42 * len(layers),
        "margin": {"l": 70, "r": 10, "t": 40, "b": 15},
    }
    return {"data": [trace], "layout": layout}


def _latency_hover(row: VariantReport, cell: tuple[int, int]) -> str:
    speed = row.speed(cell)
    assert speed is not None
    return f"<b>{row.variant}</b><br>{_accuracy_text(row)}<br>{_speed_text(speed)}"


def _speed_text(speed: Speed) -> str:
    int8 = f", {speed.speedup_int8:.2f}x int8 dense" if speed.speedup_int8 else ""
    return (
        f"p50 {1000 * speed.p50_seconds:.2f} ms, p95 {1000 * speed.p95_seconds:.2f} ms<br>"
        f"{speed.speedup:.2f}x fp32 dense{int8}"
    )


def _accuracy_text(row: VariantReport) -> str:
    assert row.evaluation is not None
    accuracy = row.evaluation.accuracy
    return f"accuracy {100 * accuracy.value:.1f} % [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _axis() -> dict[str, Any]:
    return {"gridcolor": "var(--line)", "zerolinecolor": "var(--line)", "automargin": True}


def _bars(colour: str) -> dict[str, Any]:
    return {"color": colour, "thickness": 1.2, "width": 4}
