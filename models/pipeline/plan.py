"""What a job's steps are and what each depends on; nothing here runs or writes anything."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from sparserve.kernels.library import LibraryError, find_library
from sparserve.kernels.packed_format import FORMAT_VERSION
from sparserve.kernels.packing import PackOptions, Values
from sparserve.models.bundle.variants import _INT8 as INT8
from sparserve.models.bundle.variants import DENSE as DENSE
from sparserve.models.cpus import available_cpus
from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import tokenize
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.export.sparse_graph import IR_VERSION, OPSET
from sparserve.models.files import sha256
from sparserve.models.pipeline.step_cache import Step
from sparserve.models.pruning.registry import make_method, make_unit_method
from sparserve.models.recipes.schema import Distillation, Embeddings, Recipe
from sparserve.models.training.student import required_outputs
from sparserve.models.training.teacher_outputs import cache_bytes

SHAPE = ("layers", "hidden_size", "intermediate_size", "heads")
# Raised when a change of the code makes another result of the same inputs: what earlier code made is then made again.
REVISIONS = {"teacher": 1, "augmentation": 1, "teacher outputs": 1, "squeeze": 1, "student": 1, "export": 1}
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class Job:
    """All that decides what a run makes."""

    task: str
    recipe: Recipe
    checkpoint: Checkpoint
    teacher: Checkpoint | None
    dataset: Dataset
    data_source: str
    seed: int
    threads: int

    @property
    def measured_threads(self) -> int:
        """Threads of every arm of the latency measurement."""
        return self.recipe.measurement.threads or available_cpus()

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels."""
        return self.dataset.problem_type == "multi_label_classification"


@dataclass(frozen=True)
class Plan:
    """The steps of a job, each depending on those before it; absent are those that the recipe does not ask for."""

    job: Job
    teacher: Step
    augmentation: Step | None
    teacher_outputs: Step | None
    squeeze: Step | None
    student: Step
    exports: dict[str, Step]
    packs: dict[str, Step]
    predictions: dict[str, Step]
    sparse_predictions: dict[str, Step]
    measurement: Step

    @property
    def steps(self) -> list[Step]:
        """Every step, in order."""
        training = [self.teacher, self.augmentation, self.teacher_outputs, self.squeeze, self.student]
        return [
            *(step for step in training if step is not None),
            *self.exports.values(),
            *self.packs.values(),
            *self.predictions.values(),
            *self.sparse_predictions.values(),
            self.measurement,
        ]


def make_plan(job: Job) -> Plan:
    """Lay out the steps of a job; nothing is written, and nothing is run."""
    recipe, seed = job.recipe, job.seed
    libraries = library_versions()
    common = {"data": job.dataset.digest, "max_length": recipe.max_length, "seed": seed, "libraries": libraries}
    if job.teacher is None:
        training = recipe.teacher.model_dump(mode="json", exclude={"save_steps"})
        inputs = {**common, "checkpoint": job.checkpoint.digest, "training": training}
        teacher = _network_step("teacher", inputs)
    else:
        given = {"given": job.teacher.digest, "name": job.teacher.name, "libraries": libraries}
        teacher = Step("given teacher", given)

    augmentation: Step | None = None
    rows = common
    if recipe.augmentation is not None:
        augmented = {"data": job.dataset.digest, "checkpoint": job.checkpoint.digest, "seed": seed}
        augmentation = _network_step(
            "augmentation", {**augmented, "augmentation": recipe.augmentation, "libraries": libraries}
        )
        rows = {**common, "data": augmentation.key}

    learns = recipe.distillation is not None and recipe.student.epochs > 0
    outputs: Step | None = None
    if learns and recipe.distillation is not None and _cache_fits(job, recipe.distillation):
        wanted = required_outputs(recipe.distillation)
        needed = {"hidden": wanted.hidden, "attention": wanted.attention}
        outputs = _network_step("teacher outputs", {**rows, "teacher": teacher.key, "wanted": needed})
    # Stored outputs are computed in float32 and rounded to 16 bits; a teacher beside its student computes as that does.
    imitated = {"teacher outputs": "live"} if learns and outputs is None else {}

    shape = {name: getattr(recipe.student, name) for name in SHAPE}
    start = teacher.key if recipe.student.start == "teacher" else job.checkpoint.digest
    squeeze: Step | None = None
    if recipe.squeeze is not None:
        inputs = {**common, "start": start, "shape": shape, "squeeze": recipe.squeeze}
        squeeze = _network_step("squeeze", inputs, make_unit_method(recipe.squeeze).revision)
        start = squeeze.key
    student = _network_step(
        "student",
        {**rows, **imitated, "start": start, "teacher": teacher.key if learns else None, **_trained_by(recipe)},
        make_method(recipe.pruning).revision if recipe.pruning else 0,
    )
    sources = {DENSE: teacher.key, recipe.variant_name: student.key}
    exports = {}
    for variant, source in sources.items():
        inputs = {"source": source, "variant": variant, "export": recipe.export, **common}
        if variant != DENSE and recipe.embeddings != Embeddings():
            inputs["embeddings"] = recipe.embeddings
        exports[variant] = Step(f"export {variant}", {**inputs, "revision": REVISIONS["export"]})
        if variant == DENSE or recipe.quantization.enabled:
            quantization = recipe.baseline_quantization if variant == DENSE else recipe.quantization
            int8 = {"graph": exports[variant].key, "quantization": quantization}
            exports[variant + INT8] = Step(f"export {variant}{INT8}", int8)
    # Without the sparse runtime's library here its files are still made, but not run.
    library = _library_digest()
    packs = {
        variant: Step(
            f"pack {variant}",
            {
                "graph": exports[variant.removesuffix(INT8)].key,
                "packer": _packer("int8" if variant.endswith(INT8) else "fp32"),
                "checked": library is not None,
                "quantization": recipe.quantization if variant.endswith(INT8) else None,
            },
        )
        for variant in exports
        if variant.removesuffix(INT8) != DENSE
    }
    predictions = {
        variant: Step(f"predict {variant}", {"graph": step.key, "data": job.dataset.digest})
        for variant, step in exports.items()
    }
    sparse_predictions = {
        variant: Step(f"predict {variant} sparse", {"graph": step.key, "library": library, "data": job.dataset.digest})
        for variant, step in packs.items()
        if library is not None
    }
    machine = describe_machine()
    measurement = Step(
        "measurement",
        {
            "graphs": {variant: step.key for variant, step in exports.items()},
            "packed": {variant: step.key for variant, step in packs.items() if library is not None},
            "library": library,
            "measurement": recipe.measurement,
            "threads": job.measured_threads,
            "machine": machine,
        },
    )
    return Plan(
        job,
        teacher,
        augmentation,
        outputs,
        squeeze,
        student,
        exports,
        packs,
        predictions,
        sparse_predictions,
        measurement,
    )


def _network_step(title: str, inputs: dict[str, Any], method_revision: int = 0) -> Step:
    return Step(title, {**inputs, "revision": [REVISIONS[title], method_revision]})


def _trained_by(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe decides a student's weights; not what only decides how it is interrupted or stored."""
    trained = recipe.student.epochs > 0
    unused = {"calibration"} if trained else None
    return {
        "training": recipe.student.model_dump(mode="json", exclude={"save_steps"}),
        "pruning": recipe.pruning.model_dump(mode="json", exclude=unused) if recipe.pruning else None,
        "distillation": recipe.distillation.model_dump(mode="json", exclude={"cache_bytes"})
        if recipe.distillation and trained
        else None,
    }


def _packer(values: Values) -> dict[str, Any]:
    """What decides how an encoder is packed."""
    return {"format": FORMAT_VERSION, "opset": OPSET, "ir": IR_VERSION, "options": asdict(PackOptions(values))}


def _library_digest() -> str | None:
    """What the sparse runtime's answers and times depend on; None where it is not available."""
    try:
        library = find_library()
    except LibraryError:
        return None
    return f"{library.isa} {sha256(library.path)}"


def _cache_fits(job: Job, distillation: Distillation) -> bool:
    config: Any = (job.teacher or job.checkpoint).config
    tokenizer = job.checkpoint.tokenizer()
    rows = tokenize(job.dataset.train, tokenizer, job.recipe.max_length, multi_label=job.multi_label)
    needed = cache_bytes(
        rows,
        required_outputs(distillation),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
    )
    augmentation = job.recipe.augmentation
    return needed * (1 + (augmentation.variants if augmentation else 0)) <= distillation.cache_bytes


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: version(name) for name in LIBRARIES}
