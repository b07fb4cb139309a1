"""A recipe: what one compressed variant is made by, as a schema read from YAML.

Every field has a default, a unit and a description; unknown fields are refused.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
INT8 = "-int8"  # ends the name of a variant's quantised twin
NAME_LENGTH = 64


class Section(BaseModel):
    """A part of a recipe: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Training(Section):
    """How a network is trained; the optimiser is AdamW, without decay on biases and LayerNorm."""

    epochs: float = Field(3, gt=0, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows a step")
    learning_rate: float = Field(5e-5, gt=0, description="peak, a step")
    schedule: Literal["constant", "linear", "decay_last"] = Field(
        "linear",
        description="after the warm-up: constant, linear to 0, or constant and then linear to 0 in the last `decay`",
    )
    warmup: Fraction = Field(0.06, description="fraction of the steps with a rising learning rate")
    decay: Fraction = Field(0.3, description="fraction of the steps in which `decay_last` falls to 0")
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    dropout: Fraction | None = Field(
        None, description="probability in every dropout layer; None keeps the checkpoint's"
    )
    freeze_embeddings: bool = Field(False, description="do not train the embeddings")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="bf16 autocast where the processor has it")
    save_steps: int = Field(100, ge=1, description="steps between two checkpoints to resume from")

    @model_validator(mode="after")
    def _warmup_ends_before_decay(self) -> Self:
        if self.schedule == "decay_last" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup ({self.warmup}) and decay ({self.decay}) must not be above 1 together")
        return self


class Pruning(Section):
    """Which weights are set to zero, by which score and when (methods: `models/pruning/`)."""

    method: str = Field("magnitude", description="how weights are scored: a name of `pruning.protocol.METHODS`")
    options: Mapping[str, float | int | bool] = Field({}, description="the method's own settings, by their names")
    sparsity: Sparsity = Field(0.9, description="final fraction of zeros in the encoder's linears")
    initial_sparsity: Sparsity = Field(0.0, description="fraction of zeros at the first update")
    allocation: Literal["uniform", "global"] = Field("uniform", description="same sparsity a matrix, or one ranking")
    block: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        (1, 1), description="rows and columns [out, in] of the blocks that become zero as one"
    )
    schedule: Literal["cubic", "linear", "constant"] = "cubic"
    begin: Fraction = Field(0.0, description="fraction of the steps at which pruning begins")
    end: Fraction = Field(
        0.7, description="fraction of the steps at which the final sparsity is reached; then recovery"
    )
    updates: int = Field(100, ge=1, description="mask updates between begin and end")
    calibration: int = Field(2048, ge=1, description="training rows that gradients come from where student.epochs is 0")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"begin ({self.begin}) must not be after end ({self.end})")
        if self.initial_sparsity > self.sparsity:
            raise ValueError(f"initial_sparsity ({self.initial_sparsity}) must not be above sparsity ({self.sparsity})")
        return self


class Squeeze(Section):
    """Which whole units leave the network, so that its matrices become smaller and stay dense."""

    method: str = Field("mutual-information", description="how units are chosen: a name in `pruning.unit_methods`")
    options: Mapping[str, float | int | bool] = Field({}, description="the method's own settings, by their names")
    heads: Fraction = Field(1.0, gt=0, description="fraction of the attention heads that stays")
    units: Fraction = Field(1.0, gt=0, description="fraction of the feed-forward units that stays")
    hidden: Fraction = Field(1.0, gt=0, description="fraction of the hidden dimensions that stays")
    flops: Fraction | None = Field(
        None,
        gt=0,
        description="fraction of the encoder's operations that stays; the method shares it out",
    )
    calibration: int = Field(2048, ge=1, description="training rows that the choice is made on")

    @property
    def removes(self) -> bool:
        """Whether anything is to leave."""
        return (self.flops or 1.0, self.heads, self.units, self.hidden) != (1.0,) * 4

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.flops is not None and (self.heads, self.units, self.hidden) != (1.0, 1.0, 1.0):
            raise ValueError("give either flops, or heads, units and hidden")
        return self


class Augmentation(Section):
    """More training texts by replacing words (Jiao et al. 2020, TinyBERT, arXiv 1909.10351, algorithm 1)."""

    variants: int = Field(30, ge=1, description="new texts made of each training row")
    probability: Fraction = Field(0.4, gt=0, description="chance of each word to be replaced")
    candidates: int = Field(15, ge=1, description="words to draw a replacement from")
    source: Literal["auto", "masked-lm", "embeddings"] = Field(
        "auto", description="masked-LM predictions, neighbours in the input embeddings, or whichever there is"
    )


class Distillation(Section):
    """What the student learns from the teacher: a weighted sum of losses."""

    logits: Weight = Field(1.0, description="weight of the soft cross-entropy of the logits")
    temperature: float = Field(1.0, gt=0, description="T of the soft cross-entropy")
    hidden: Weight = Field(1.0, description="weight of the hidden states' squared error, summed over layers")
    hidden_relative: bool = Field(
        False, description="hidden states' error as a fraction of the teacher's mean square, layer by layer"
    )
    attention: Weight = Field(1.0, description="weight of the attention scores' squared error, summed over layers")
    cosine: Weight = Field(0.0, description="weight of 1 - cosine of the hidden states, the mean over layers")
    labels: Weight = Field(0.0, description="weight of the cross-entropy with the gold labels")
    cache_bytes: int = Field(
        6 * 10**9, ge=0, description="largest cache of teacher outputs; above it the teacher runs every step"
    )

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not (self.logits or self.hidden or self.attention or self.cosine or self.labels):
            raise ValueError("at least one of logits, hidden, attention, cosine and labels must have a weight above 0")
        return self


class Student(Training):
    """How the compressed network is made and trained."""

    start: Literal["pretrained", "teacher"] = Field("pretrained", description="the weights it starts from")
    layers: int | None = Field(None, ge=1, description="transformer layers, every k-th of the start's; None: all")
    hidden_size: int | None = Field(None, ge=1, description="width of a narrower network; None: the start's")
    intermediate_size: int | None = Field(None, ge=1, description="feed-forward units of each layer; None: the start's")
    heads: int | None = Field(None, ge=1, description="attention heads of a narrower network; None: the start's")
    epochs: float = Field(3, ge=0, description="passes over the training rows; 0: prune without training")
    schedule: Literal["constant", "linear", "decay_last", "cosine_restarts"] = Field(  # type: ignore[assignment]
        "linear", description="as a teacher's, or `cycles` cosines, each from the peak to 0 (learning-rate rewinds)"
    )
    cycles: int = Field(4, ge=1, description="rewinds of `cosine_restarts`")


class Quantization(Section):
    """Int8: dynamic, per channel."""

    enabled: bool = Field(True, description="also make `<variant>-int8`, as `dense-int8` always is")
    embeddings: bool = Field(True, description="embedding tables too, with one scale a row")
    embedding_bits: Literal[4, 8] = Field(8, description="of the token table; 4: blocks of 32 entries share a scale")
    reduce_range: bool = Field(
        True, description="7-bit weights: never saturates on CPUs without VNNI, so all CPUs give the same answers"
    )


class Embeddings(Section):
    """The embedding tables of what is exported; they are most of a model whose encoder is sparse."""

    vocabulary: Literal["all", "training"] = Field(
        "all",
        description="rows kept: every token's, or those of the training texts; other tokens take the nearest one's",
    )
    rank: int | None = Field(None, ge=1, description="rank of a factorised token table; None: not factorised")


class Export(Section):
    """ONNX."""

    opset: int = Field(20, ge=17, le=23)
    tolerance: float = Field(1e-4, gt=0, description="largest difference of a logit between torch and onnxruntime")


class Assessment(Section):
    """Evaluation on the test split."""

    bootstrap_samples: int = Field(1000, ge=100, le=100_000)
    examples: int = Field(20, ge=0, le=1000, description="lost examples kept in the report; their text is stored there")


class Measuring(Section):
    """Latency and memory."""

    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 8), min_length=1, description="texts")
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field((16, 64, 128), min_length=1, description="tokens")
    seconds: float = Field(60.0, gt=0, description="time for the whole latency grid")
    threads: int | None = Field(None, ge=1, description="intra-op threads of every arm; None takes all CPUs")


class Recipe(Section):
    """How one compressed variant is made."""

    name: str = Field(description="what the recipe is called")
    description: str = Field("", description="a sentence, with its source")
    variant: str = Field("sparse{sparsity}", description="name in the store; {sparsity} is the percentage of zeros")
    max_length: int = Field(128, ge=8, le=512, description="tokens; longer texts are truncated")
    teacher: Training = Training()
    augmentation: Augmentation | None = Field(None, description="None: the training rows as they are")
    student: Student = Student()
    squeeze: Squeeze | None = Field(None, description="None: no unit leaves the network")
    pruning: Pruning | None = Field(Pruning(), description="None: every weight that stays is kept")
    distillation: Distillation | None = Field(None, description="None: the student learns from the gold labels alone")
    embeddings: Embeddings = Embeddings()
    quantization: Quantization = Quantization()
    export: Export = Export()
    evaluation: Assessment = Assessment()
    measurement: Measuring = Measuring()

    @property
    def variant_name(self) -> str:
        """Name of the variant in the store, such as `sparse90`."""
        return self.variant.format(sparsity=f"{100 * (self.pruning.sparsity if self.pruning else 0):g}")

    @property
    def baseline_quantization(self) -> Quantization:
        """How the dense baseline becomes int8: nothing that only makes a student smaller counts there."""
        return self.quantization.model_copy(update={"enabled": True, "embedding_bits": 8})

    @model_validator(mode="after")
    def _something_is_done(self) -> Self:
        student = self.student
        # A head drawn at random would decide which units leave, or be published as it is.
        if student.start == "pretrained" and (self.squeeze is not None or not student.epochs):
            raise ValueError("squeeze, and student.epochs 0, need a fine-tuned network: set student.start to teacher")
        if student.epochs:
            distillation = self.distillation
            if student.start == "pretrained" and distillation and not (distillation.logits or distillation.labels):
                raise ValueError(
                    "distillation: nothing would train the classifier's head: give logits or labels a weight, "
                    "or set student.start to teacher"
                )
            return self
        smaller = (student.layers, student.hidden_size, student.intermediate_size, student.heads) != (None,) * 4
        removes = self.squeeze is not None and self.squeeze.removes
        prunes = self.pruning is not None and self.pruning.sparsity > 0
        if not (removes or prunes or smaller) and self.embeddings == Embeddings():
            raise ValueError(
                "student.epochs is 0, and nothing else is asked for: no squeeze, no pruning, no embeddings"
            )
        for name in ("distillation", "augmentation"):
            if getattr(self, name) is not None:
                raise ValueError(f"student.epochs is 0, so {name} would do nothing: set {name} to null")
        return self

    @model_validator(mode="after")
    def _variant_can_be_formatted(self) -> Self:
        try:
            name = self.variant_name
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"variant {self.variant!r} may hold only the field {{sparsity}}") from error
        if name == "dense":
            raise ValueError(f"variant {name!r} is the name of the baseline: choose another one")
        if name.endswith(INT8):
            raise ValueError(f"variant {name!r} ends in {INT8}, as the int8 twin of a variant does: choose another one")
        if len(name) > NAME_LENGTH - len(INT8):
            raise ValueError(
                f"variant {name!r} has {len(name)} characters; its int8 twin has {len(INT8)} more, and may have "
                f"{NAME_LENGTH}: choose a shorter one"
            )
        return self
