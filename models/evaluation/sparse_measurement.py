"""What the sparse runtime costs and answers, beside stock onnxruntime on the same bundle."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.inference import sparse_library
from sparserve.models.bundle.manifest import LatencyPoint, Measurement, ProblemType, SparseMeasurement
from sparserve.models.evaluation.scores import decisions

SPARSE_ARM: Final = " in the sparse runtime"


def with_sparse(
    stock: Measurement,
    sparse: Measurement,
    *,
    logits: npt.NDArray[np.float32],
    sparse_logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    problem_type: ProblemType,
) -> Measurement:
    """A bundle's measurement with that of its model.sparse.onnx, taken in the same session.

    Logits [rows, labels] are of the same test rows, whose labels are `labels`.
    """
    ratios = [_ratio(ours, theirs) for ours, theirs in zip(sparse.latency, stock.latency, strict=True)]
    truth, predicted = decisions(sparse_logits, labels, logits.shape[1], problem_type)
    _, stock_predicted = decisions(logits, labels, logits.shape[1], problem_type)
    record = SparseMeasurement(
        isa=sparse_library().isa,
        rows=len(labels),
        accuracy=float((predicted == truth).all(axis=1).mean()),
        same_labels=float((predicted == stock_predicted).all(axis=1).mean()),
        largest_difference=float(np.abs(logits - sparse_logits).max()),
        resident_bytes=sparse.resident_bytes,
        latency=sparse.latency,
        faster_at=tuple(
            (point.batch, point.length) for point, ratio in zip(sparse.latency, ratios, strict=True) if ratio > 1
        ),
        preferred=math.fsum(map(math.log, ratios)) > 0,
    )
    return stock.model_copy(update={"sparse": record})


def _ratio(sparse: LatencyPoint, stock: LatencyPoint) -> float:
    return stock.p50_seconds / sparse.p50_seconds
