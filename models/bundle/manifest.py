"""The manifest: the description of a bundle, as one strict schema.

Fractions are 0-1, times seconds, sizes bytes. `identity()` leaves out the figures that a second run of the same job on
the same machine does not reproduce exactly (latency, memory), so that one content has one version.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sparserve.models.bundle.variants import Precision
from sparserve.models.bundle.windows import LongTexts

SCHEMA_VERSION: Final = 1
VERSION_LENGTH = 16

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
InputKind = Literal["single", "pair"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    unsafe = not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path or "\x00" in path
    if unsafe or str(PurePosixPath(path)) != path:
        raise ValueError(f"{path!r} is not a plain path inside the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class Record(BaseModel):
    """A part of the manifest: immutable, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRecord(Record):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Count


class UnlabeledData(Record):
    """Rows without labels, on which the student was trained with the teacher's answers."""

    source: str
    digest: Sha256
    rows: Count


class BiggerTeacher(Record):
    """A network of another architecture or size, whose logits taught the dense variant and the student."""

    name: str
    architecture: str
    digest: Sha256
    parameters: Count
    evaluation: "Evaluation"


class Lineage(Record):
    """Origin of a bundle: checkpoint, data, teacher, seed and library versions."""

    base_checkpoint: str
    base_digest: Sha256
    data_source: str
    data_digest: Sha256
    teacher: Version | None = None
    unlabeled: UnlabeledData | None = None
    bigger_teacher: BiggerTeacher | None = None
    seed: int
    libraries: dict[str, str]


class LearningRateTrial(Record):
    """One short training of the search for a learning rate."""

    learning_rate: float = Field(gt=0, description="the candidate; the trial of a student runs at twice this rate")
    steps: Count
    loss: float | None = Field(
        description="on validation rows: cross-entropy, or divergence from a distilled student's teacher; null if the "
        "training diverged"
    )


class TrainingSettings(Record):
    """The settings of a training, fixed by the recipe or found by trials."""

    learning_rate: float = Field(gt=0, description="peak of the schedule")
    epochs: float = Field(gt=0, description="passes over the training rows, planned")
    batch_size: int = Field(ge=1, description="rows per step")
    class_weights: bool = Field(False, description="rare labels weigh more in the loss")
    trials: tuple[LearningRateTrial, ...] = Field((), description="empty if the recipe fixed the settings")


class TeacherTraining(Record):
    """Course of the dense teacher's training."""

    settings: TrainingSettings
    epochs: float = Field(description="passes over the training rows, made")
    best_epoch: float = Field(description="end of the epoch whose weights were kept")
    scores: tuple[float, ...] = Field(
        description="of the validation rows, in order: accuracy, macro F1 for multi-label tasks, Spearman for one score"
    )
    still_rising: bool = Field(description="the last quarter of the training raised the score markedly")


class TensorSparsity(Record):
    """The zeros of one stored tensor."""

    name: str
    shape: tuple[Count, ...]
    nonzero: Count
    pattern: Literal["dense", "unstructured"]
    bits: Literal[4, 8, 16, 32, 64]
    group: Literal["encoder_linear", "other_linear", "embedding", "other"]


class Density(Record):
    """Number of parameters of a group, and of those that are not zero."""

    parameters: Count
    nonzero: Count

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1 - self.nonzero / self.parameters if self.parameters else 0.0


class Sparsity(Record):
    """Nonzeros of the encoder's linears, as the literature counts them, of all linears, and of the whole model."""

    encoder_linear: Density
    all_linear: Density
    whole_model: Density
    tensors: tuple[TensorSparsity, ...]


class Sizes(Record):
    """Bytes of the graph's file, as stored and deflated."""

    onnx: Count
    onnx_zipped: Count


class Flops(Record):
    """Floating-point operations (2 per multiply-add) of one sequence of `length` tokens."""

    length: Count
    dense: Count
    effective: Count = Field(description="without multiplications by stored zeros")


class Interval(Record):
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


class ClassFigures(Record):
    """Precision, recall and F1 of one label, which `support` test rows have."""

    label: str
    precision: Fraction
    recall: Fraction
    f1: Fraction
    support: Count


class LostExample(Record):
    """A test row that the dense model gets right and this model wrong."""

    text: str
    text_pair: str | None = None
    expected: str
    predicted: str
    probability: Fraction


class Agreement(Record):
    """Comparison of this bundle with the dense one on the same test rows."""

    reference: Version
    agreement: Interval = Field(description="fraction of rows with the same prediction")
    accuracy_kept: Interval = Field(description="accuracy divided by the reference's accuracy")
    mcnemar_p: Fraction = Field(description="exact McNemar test of equal error rates")
    only_reference_right: Count
    only_this_right: Count
    lost: tuple[LostExample, ...] = ()


class Evaluation(Record):
    """Figures on the held-out test split."""

    rows: Count
    accuracy: Interval = Field(description="of the exact label set for multi-label tasks")
    macro_f1: Interval
    mcc: Interval = Field(description="Matthews correlation; mean over labels for multi-label tasks")
    calibration_error: Fraction = Field(description="expected calibration error, 15 equal-width bins")
    per_class: tuple[ClassFigures, ...]
    agreement: Agreement | None = None


class RankingFigures(Record):
    """Figures of a reranker, over the queries of the test split that have a relevant and an irrelevant document."""

    queries: Count
    ndcg10: Interval = Field(description="normalised discounted cumulative gain of the first 10, gain = relevance")
    mrr: Interval = Field(description="mean reciprocal rank of the first relevant document")
    accuracy: Interval = Field(description="of relevant or not over all rows, at `threshold`")
    threshold: float = Field(description="score from which a document counts as relevant")


class ScoreAgreement(Record):
    """Comparison of this bundle's scores with those of the dense one on the same test rows."""

    reference: Version
    same_order: Interval = Field(description="fraction of pairs of rows that both put in the same order")
    spearman: Fraction | None = Field(description="rank correlation with the reference; null if it is negative")
    nearer_p: Fraction = Field(description="exact sign test of equal distances to the true numbers")
    only_reference_nearer: Count
    only_this_nearer: Count


class ScoreEvaluation(Record):
    """Figures of a model with one score, on the held-out test split."""

    rows: Count
    pearson: Interval
    spearman: Interval
    mean_squared_error: float = Field(ge=0)
    ranking: RankingFigures | None = Field(None, description="null for a regression")
    agreement: ScoreAgreement | None = None


class Calibration(Record):
    """Temperature that the classifier's last linear was divided by, and its effect on the held-out test split."""

    temperature: float = Field(gt=0)
    rows: Count = Field(description="validation rows that the temperature was fitted on")
    error_before: Fraction = Field(description="expected calibration error without it, 15 equal-width bins")
    error_after: Fraction
    nll_before: float = Field(ge=0, description="mean negative log-likelihood without it, in nats")
    nll_after: float = Field(ge=0)


class Machine(Record):
    """The machine that a measurement was taken on."""

    cpu: str
    isa: tuple[str, ...]
    cores: Count
    memory_bytes: Count
    system: str
    python: str
    onnxruntime: str


class LatencyPoint(Record):
    """One cell of the latency grid. The dense arms ran interleaved with this one in the same process."""

    batch: Count
    length: Count
    p50_seconds: Seconds
    p95_seconds: Seconds
    items_per_second: float
    dense_p50_seconds: Seconds
    dense_int8_p50_seconds: Seconds | None = None

    @property
    def speedup(self) -> float:
        """Speed-up over ONNX Runtime fp32 dense (ratio of medians)."""
        return self.dense_p50_seconds / self.p50_seconds

    @property
    def speedup_int8(self) -> float | None:
        """Speed-up over ONNX Runtime int8 dense (ratio of medians)."""
        return self.dense_int8_p50_seconds / self.p50_seconds if self.dense_int8_p50_seconds else None


class PackedAttention(Record):
    """Arithmetic of attention in model.sparse.onnx, and the measurement that chose it."""

    values: Literal["fp32", "int8"]
    rows: Count = Field(description="texts that were answered in both; 0: not compared")
    largest_change: float | None = Field(
        ge=0, description="of a logit by attention in int8, as a fraction of the largest logit"
    )


class Packed(Record):
    """Description of model.sparse.onnx: the same function with its encoder packed for the sparse runtime."""

    format_version: int = Field(ge=1, description="of the packed weights")
    opset_version: int = Field(ge=1, description='of the operator domain "sparserve" that it needs')
    values: Literal["fp32", "int8"]
    bytes: Count = Field(description="of the file")
    encoder_bytes: Count = Field(description="of the packed encoder in it")
    index_bytes: Count = Field(description="of the packed encoder: positions of its nonzeros")
    value_bytes: Count = Field(description="of the packed encoder: nonzeros, scales, biases, LayerNorms")
    layouts: dict[str, Count] = Field(description="matrices stored dense, unstructured or in 1x4 blocks")
    first_token_only: bool = Field(description="the last layer is computed for the first token alone")
    attention: PackedAttention | None = Field(None, description="None: fp32, without a choice")


class TokenTable(Record):
    """Description of the token embeddings if the recipe made them smaller."""

    tokens: Count = Field(description="ids that the tokenizer has")
    rows: Count = Field(description="embeddings that are kept; each other token shares one of them")
    rank: int | None = Field(ge=1, description="of the factorised table; None: not factorised")
    energy_kept: Fraction = Field(description="of the kept rows' squared norm, each weighted by its occurrences")


class SparseMeasurement(Record):
    """Cost of model.sparse.onnx, and its agreement with model.onnx; same session, same baselines."""

    isa: str = Field(description="the kernels that ran")
    rows: Count = Field(description="test rows that both files answered")
    accuracy: Fraction | None = Field(description="null for a model with one score")
    same_labels: Fraction = Field(
        description="fraction of test rows with the same prediction as model.onnx; of pairs of rows in the same order "
        "for a model with one score"
    )
    largest_difference: Annotated[float, Field(ge=0)] = Field(description="of a logit from model.onnx's on those rows")
    resident_bytes: Count
    latency: tuple[LatencyPoint, ...]
    faster_at: tuple[tuple[Count, Count], ...] = Field(
        description="cells (batch, length) where it is faster than model.onnx"
    )
    preferred: bool = Field(description="faster than model.onnx over the whole grid (geometric mean)")


class Measurement(Record):
    """Cost of running the bundle."""

    measured_at: str = Field(description="UTC, ISO 8601")
    machine: Machine
    threads: Count
    repeats: Count
    resident_bytes: Count = Field(description="growth of the process's resident memory by loading and one run")
    latency: tuple[LatencyPoint, ...]
    sparse: SparseMeasurement | None = None


class SampleAnswer(Record):
    """A text and its logits on the exporting machine, to compare another run with."""

    text: str
    logits: tuple[float, ...]


class Manifest(Record):
    """The complete description of a bundle."""

    schema_version: Literal[1] = SCHEMA_VERSION
    task: Name
    variant: Name
    version: Version
    labels: tuple[str, ...] = Field(min_length=1)
    problem_type: ProblemType
    inputs: InputKind | None = Field(None, description="trained on single texts or on pairs; null in older bundles")
    architecture: str
    precision: Precision
    max_length: int = Field(ge=8, le=8192, description="tokens that the model takes, special ones included")
    long_texts: LongTexts | None = Field(
        None, description="treatment of longer texts by default; null: they are truncated"
    )
    pad_token_id: Count
    recipe: dict[str, Any]
    lineage: Lineage
    sparsity: Sparsity
    sizes: Sizes
    flops: Flops
    evaluation: Evaluation | None = None
    score_evaluation: ScoreEvaluation | None = Field(None, description="of a model with one score, which has no labels")
    calibration: Calibration | None = Field(None, description="null if no temperature was fitted")
    measurement: Measurement | None = None
    sample: tuple[SampleAnswer, ...] = ()
    packed: Packed | None = None
    token_table: TokenTable | None = None
    teacher_training: TeacherTraining | None = Field(
        None, description="of the dense variant; null if the teacher was given, and in older bundles"
    )
    student_training: TrainingSettings | None = Field(
        None, description="of a student that found its learning rate; null if the recipe fixed it, and in older bundles"
    )
    files: dict[RelativePath, FileRecord]

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self

    def identity(self) -> str:
        """Return the version of this content: a short digest of everything that a second run reproduces.

        Left out are the version itself, measurement and sizes, which vary with the machine, README.md, which repeats
        them, the kind of inputs, which the digest of the data implies, and the course of the trainings, which
        the files imply.
        """
        left_out = {"version", "measurement", "sizes", "inputs", "teacher_training", "student_training"}
        content = self.model_dump(mode="json", exclude=left_out)
        content["files"].pop("README.md", None)
        # Bundles that were sealed before these keys existed keep their versions.
        for added in ("packed", "token_table", "calibration", "score_evaluation", "long_texts"):
            if content[added] is None:
                del content[added]
        for added in ("unlabeled", "bigger_teacher"):
            if content["lineage"][added] is None:
                del content["lineage"][added]
        if "packed" in content and content["packed"]["attention"] is None:
            del content["packed"]["attention"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:VERSION_LENGTH]

    @property
    def one_score(self) -> bool:
        """True for a regression or a reranker, which have one score and no labels."""
        return len(self.labels) == 1

    def input_mismatch(self, pairs: Sequence[str | None]) -> str | None:
        """Return a warning if some inputs are of another kind than the training data; None if all are of that kind.

        `pairs` has the second text of each input, None for a single text. A manifest without `inputs` fits any.
        """
        if self.inputs is None:
            return None
        trained_on_pairs = self.inputs == "pair"
        wrong = [position for position, pair in enumerate(pairs) if (pair is None) is trained_on_pairs]
        if not wrong:
            return None
        sent, trained, remedy = (
            ("single text", "pairs of texts", "text and text_pair")
            if trained_on_pairs
            else ("pair of texts", "single texts", "text alone")
        )
        several = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        name = f"{self.task}/{self.variant}"
        return f"item {wrong[0]}{several} is a {sent}, but {name} was trained on {trained}: send {remedy}"

    def sealed(self) -> Self:
        """Return this manifest with `version` set to its identity."""
        return self.model_copy(update={"version": self.identity()})
