"""Schema of a recipe, which describes one compressed variant in YAML.

Every field has a default, a unit and a description. Unknown fields are refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_validator,
)

from sparserve.models.bundle.variants import DENSE, Variant
from sparserve.models.bundle.windows import LongTexts, longest_stride

Fraction = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
NAME_LENGTH = 64
AUTO: Final = "auto"
# Fields of a student that the plan of a job replaces by the epochs and the learning rate that follow from them.
ADAPTED: Final = ("least_steps", "reference_width")


class Section(BaseModel):
    """Immutable part of a recipe that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Training(Section):
    """Training settings of a network. The optimiser is AdamW, without weight decay on biases and LayerNorm."""

    epochs: float = Field(3, gt=0, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows per step")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of the schedule")
    schedule: Literal["constant", "linear", "decay_last"] = Field(
        "linear",
        description="after the warm-up: constant, linear to 0, or constant and then linear to 0 in the last `decay`",
    )
    warmup: Fraction = Field(0.06, description="fraction of the steps in which the learning rate rises")
    decay: Fraction = Field(0.3, description="fraction of the steps in which `decay_last` falls to 0")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    max_gradient_norm: float = Field(1.0, gt=0, description="norm to which gradients are clipped")
    dropout: Fraction | None = Field(None, description="probability of every dropout layer; None: the checkpoint's")
    freeze_embeddings: bool = Field(False, description="keep the embeddings fixed during training")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 if the processor has it")
    save_steps: int = Field(100, ge=1, description="steps between two resumable checkpoints")

    @model_validator(mode="after")
    def _warmup_ends_before_decay(self) -> Self:
        if self.schedule == "decay_last" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) plus decay ({self.decay}) must be at most 1")
        return self


class Pruning(Section):
    """Unstructured or block pruning: the score that selects weights, the sparsity and the schedule."""

    method: str = Field("magnitude", description="a key of `pruning.registry.METHODS`")
    options: Mapping[str, float | int | bool] = Field({}, description="settings of the method, by name")
    sparsity: Sparsity = Field(0.9, description="final fraction of zeros in the encoder's linears")
    initial_sparsity: Sparsity = Field(0.0, description="fraction of zeros at the first update")
    allocation: Literal["uniform", "global"] = Field(
        "uniform", description="the same sparsity in every matrix, or one ranking"
    )
    block: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        (1, 1), description="rows and columns [out, in] of the blocks that are pruned as a whole"
    )
    schedule: Literal["cubic", "linear", "constant"] = Field(
        "cubic", description="growth of the sparsity between begin and end"
    )
    begin: Fraction = Field(0.0, description="fraction of the steps after which pruning begins")
    end: Fraction = Field(
        0.7, description="fraction of the steps after which the final sparsity is reached; recovery follows"
    )
    updates: int = Field(100, ge=1, description="mask updates between begin and end")
    calibration: int = Field(2048, ge=1, description="training rows for the gradients if student.epochs is 0")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"begin ({self.begin}) must be at most end ({self.end})")
        if self.initial_sparsity > self.sparsity:
            raise ValueError(f"initial_sparsity ({self.initial_sparsity}) must be at most sparsity ({self.sparsity})")
        return self


class Squeeze(Section):
    """Structured pruning: whole units are removed, so that matrices become smaller and stay dense."""

    method: str = Field("mutual-information", description="a key of `pruning.registry.UNIT_METHODS`")
    options: Mapping[str, float | int | bool] = Field({}, description="settings of the method, by name")
    heads: Fraction = Field(1.0, gt=0, description="fraction of the attention heads to keep")
    units: Fraction = Field(1.0, gt=0, description="fraction of the feed-forward units to keep")
    hidden: Fraction = Field(1.0, gt=0, description="fraction of the hidden dimensions to keep")
    flops: Fraction | None = Field(
        None,
        gt=0,
        description="fraction of the encoder's operations to keep; the method distributes it over heads and units",
    )
    calibration: int = Field(2048, ge=1, description="training rows for the selection")

    @property
    def removes(self) -> bool:
        """True if anything is removed."""
        return (self.flops or 1.0, self.heads, self.units, self.hidden) != (1.0,) * 4

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.flops is not None and (self.heads, self.units, self.hidden) != (1.0, 1.0, 1.0):
            raise ValueError("flops cannot be combined with heads, units or hidden: set one or the other")
        return self


class Augmentation(Section):
    """More training texts by changing words (Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1)."""

    variants: int = Field(30, ge=1, description="new texts per training row")
    probability: Fraction = Field(0.4, gt=0, description="probability that a word is changed")
    candidates: int = Field(15, ge=1, description="words among which a replacement is drawn")
    source: Literal["auto", "masked-lm", "embeddings", "swap-delete"] = Field(
        "auto",
        description="replacements: masked-LM predictions, or neighbours in the input embeddings; auto: what is "
        "available; swap-delete: none, words are swapped with the next or deleted (EDA)",
    )


class Distillation(Section):
    """Distillation loss: a weighted sum of losses between student and teacher."""

    logits: Weight = Field(1.0, description="weight of the soft cross-entropy of the logits")
    temperature: float = Field(1.0, gt=0, description="temperature T of the soft cross-entropy")
    hidden: Weight = Field(1.0, description="weight of the squared error of hidden states, summed over layers")
    hidden_relative: bool = Field(
        False, description="divide the error of each layer's hidden states by the teacher's mean square"
    )
    attention: Weight = Field(1.0, description="weight of the squared error of attention scores, summed over layers")
    cosine: Weight = Field(0.0, description="weight of 1 - cosine of the hidden states, averaged over layers")
    labels: Weight = Field(0.0, description="weight of the cross-entropy with the gold labels")
    cache_bytes: int = Field(
        6 * 10**9,
        ge=0,
        description="largest cache of teacher outputs; if they need more, the teacher runs in every step",
    )

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if not (self.logits or self.hidden or self.attention or self.cosine or self.labels):
            raise ValueError("at least one of logits, hidden, attention, cosine and labels needs a weight above 0")
        return self


class Student(Training):
    """Structure and training settings of the compressed network."""

    start: Literal["pretrained", "teacher"] = Field("pretrained", description="origin of the student's weights")
    layers: int | None = Field(None, ge=1, description="transformer layers, every k-th of the start network; None: all")
    hidden_size: int | None = Field(None, ge=1, description="hidden size of a narrower network; None: unchanged")
    intermediate_size: int | None = Field(None, ge=1, description="feed-forward units of each layer; None: unchanged")
    heads: int | None = Field(None, ge=1, description="attention heads of a narrower network; None: unchanged")
    epochs: float = Field(3, ge=0, description="passes over the training rows; 0: prune without training")
    least_steps: int = Field(
        0,
        ge=0,
        description="training steps of few rows, which are passed over more often than `epochs` for them, up to 40 "
        "times; --set student.epochs leaves it out",
    )
    learning_rate: float | None = Field(  # type: ignore[assignment]
        5e-5,
        gt=0,
        description='peak learning rate of the schedule, or "auto": found by short trials, which are compared by their '
        "divergence from the teacher",
    )
    reference_width: int | None = Field(
        None,
        ge=1,
        description="hidden size that `learning_rate` was chosen for: a network of another one gets `learning_rate` * "
        "`reference_width` / its hidden size; None: `learning_rate` as it is; --set student.learning_rate removes it",
    )
    schedule: Literal["constant", "linear", "decay_last", "cosine_restarts"] = Field(  # type: ignore[assignment]
        "linear", description="as for the teacher, or `cycles` cosines from the peak to 0 (learning-rate rewinding)"
    )
    cycles: int = Field(4, ge=1, description="number of cosines of `cosine_restarts`")

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _rate_can_be_auto(cls, value: Any) -> Any:
        return None if value == AUTO else value

    @field_serializer("learning_rate", mode="plain")
    def _auto_has_a_name(self, value: float | None) -> float | str:
        return AUTO if value is None else value


class Quantization(Section):
    """Int8 quantisation: dynamic activations, one weight scale per output channel."""

    enabled: bool = Field(True, description="also make the variant `<variant>-int8`; `dense-int8` is always made")
    embeddings: bool = Field(True, description="quantise embedding tables too, with one scale per row")
    embedding_bits: Literal[4, 8] = Field(8, description="bits of the token table; with 4, 32 entries share a scale")
    reduce_range: bool = Field(
        True, description="7-bit weights: no saturation on CPUs without VNNI, so that all CPUs give the same answers"
    )


class Packing(Section):
    """Packing of the int8 variant for the sparse runtime."""

    attention: Literal["auto", "fp32", "int8"] = Field(
        "auto",
        description="arithmetic of attention; auto: int8 if the logits of validation texts change by at most 4 %",
    )


class Embeddings(Section):
    """Embedding tables of the exported model; they are most of a model whose encoder is sparse."""

    vocabulary: Literal["all", "training"] = Field(
        "all",
        description="rows to keep: all, or those of tokens in training texts; other tokens get the nearest row",
    )
    rank: int | None = Field(None, ge=1, description="rank of a factorised token table; None: not factorised")


class Export(Section):
    """ONNX export."""

    opset: int = Field(20, ge=17, le=23, description="version of the ONNX operator set")
    tolerance: float = Field(1e-4, gt=0, description="largest difference of a logit between torch and ONNX Runtime")


class Assessment(Section):
    """Evaluation on the test split."""

    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="samples for confidence intervals")
    examples: int = Field(20, ge=0, le=1000, description="lost examples in the report, with their texts")


class Measuring(Section):
    """Measurement of latency and memory."""

    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 8), min_length=1, description="texts per batch")
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 64, 128), min_length=1, description="tokens per text")
    seconds: float = Field(60.0, gt=0, description="time for the whole latency grid")
    threads: int | None = Field(None, ge=1, description="intra-op threads of every model; None: one per CPU")


class Recipe(Section):
    """Description of one compressed variant."""

    name: str = Field(description="name of the recipe")
    description: str = Field("", description="one sentence, with the source of the method")
    variant: str = Field("sparse{sparsity}", description="name in the store; {sparsity}: percentage of zeros")
    max_length: int = Field(
        128, ge=8, le=8192, description="tokens of a text or window, special ones included; at most the encoder's own"
    )
    long_texts: LongTexts = Field(
        LongTexts(), description="treatment of longer texts in training and evaluation, and in requests by default"
    )
    teacher: Training | None = Field(
        None,
        description='fixed settings, or "auto" (the default): learning rate, epochs, batch size and class weights are '
        "found from the data and by trials on the validation split",
    )
    augmentation: Augmentation | None = Field(None, description="None: no augmentation")
    student: Student = Student()
    squeeze: Squeeze | None = Field(None, description="None: no units are removed")
    pruning: Pruning | None = Field(Pruning(), description="None: no single weights are pruned")
    distillation: Distillation | None = Field(None, description="None: the student learns from the gold labels only")
    embeddings: Embeddings = Embeddings()
    temperature_scaling: bool = Field(
        False,
        description="calibrate single-label tasks: divide logits by one temperature, fitted on the validation split",
    )
    quantization: Quantization = Quantization()
    packing: Packing = Packing()
    export: Export = Export()
    evaluation: Assessment = Assessment()
    measurement: Measuring = Measuring()

    @property
    def variant_name(self) -> str:
        """Name of the variant in the store, such as `sparse90`."""
        return self.variant.format(sparsity=f"{100 * (self.pruning.sparsity if self.pruning else 0):g}")

    @property
    def imitates_teacher(self) -> bool:
        """True if the student is trained on the teacher's answers, and so also on rows without labels."""
        losses = self.distillation
        if losses is None or not self.student.epochs:
            return False
        return bool(losses.logits or losses.hidden or losses.attention or losses.cosine)

    @property
    def baseline_quantization(self) -> Quantization:
        """Quantisation of the dense baseline, without the settings that only make a student smaller."""
        return self.quantization.model_copy(update={"enabled": True, "embedding_bits": 8})

    @field_validator("teacher", mode="before")
    @classmethod
    def _teacher_can_be_auto(cls, value: Any) -> Any:
        if isinstance(value, str) and value != AUTO:
            raise ValueError('"auto" or fixed settings, such as {epochs: 4, batch_size: 32, learning_rate: 5.0e-5}')
        return None if value == AUTO else value

    @field_serializer("teacher", mode="wrap")
    def _auto_has_a_name(self, value: Training | None, handler: SerializerFunctionWrapHandler) -> Any:
        return AUTO if value is None else handler(value)

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        stride, longest = self.long_texts.stride, longest_stride(self.max_length)
        if stride is not None and stride > longest:
            raise ValueError(f"long_texts.stride ({stride}) must be at most half of max_length: set at most {longest}")
        return self

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        student = self.student
        # A random head would decide which units are removed, or would be published untrained.
        if student.start == "pretrained" and (self.squeeze is not None or not student.epochs):
            raise ValueError("squeeze and student.epochs 0 need a fine-tuned network: set student.start to teacher")
        if student.epochs:
            distillation = self.distillation
            if student.start == "pretrained" and distillation and not (distillation.logits or distillation.labels):
                raise ValueError(
                    "distillation does not train the classifier's head: give logits or labels a weight above 0, "
                    "or set student.start to teacher"
                )
            return self
        if student.learning_rate is None:
            raise ValueError(
                "student.epochs is 0, so there is no learning rate to find: leave student.learning_rate out"
            )
        smaller = (student.layers, student.hidden_size, student.intermediate_size, student.heads) != (None,) * 4
        removes = self.squeeze is not None and self.squeeze.removes
        prunes = self.pruning is not None and self.pruning.sparsity > 0
        if not (removes or prunes or smaller) and self.embeddings == Embeddings():
            raise ValueError(
                "the recipe changes nothing: student.epochs is 0 and there is no squeeze, pruning or embeddings; "
                "set one of them"
            )
        for name in ("distillation", "augmentation"):
            if getattr(self, name) is not None:
                raise ValueError(f"student.epochs is 0, so {name} has no effect: set {name} to null")
        return self

    @model_validator(mode="after")
    def _variant_can_be_formatted(self) -> Self:
        try:
            name = self.variant_name
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"variant {self.variant!r} may contain only the field {{sparsity}}") from error
        if name == DENSE:
            raise ValueError(f"variant {name!r} is the name of the baseline: choose another name")
        if Variant.parse(name).is_int8:
            raise ValueError(f"variant {name!r} is named like an int8 variant: choose another name")
        int8 = str(Variant(name, "int8"))
        if len(int8) > NAME_LENGTH:
            raise ValueError(
                f"variant {name!r} has {len(name)} characters; at most {NAME_LENGTH - len(int8) + len(name)} are "
                f"allowed, so that {int8!r} has at most {NAME_LENGTH}: choose a shorter name"
            )
        return self
