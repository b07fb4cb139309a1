"""The inputs of a job: the values that decide its results, and the machine that it runs on."""

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparserve.kernels.library import LibraryError, find_library
from sparserve.models.bundle.manifest import Machine
from sparserve.models.bundle.windows import LongTexts
from sparserve.models.cpus import available_cpus
from sparserve.models.data.dataset import Dataset, Split
from sparserve.models.data.tokenization import TokenizedDataset, TokenizedSplit
from sparserve.models.data.unlabeled import UnlabeledRows
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import sha256
from sparserve.models.recipes.schema import Recipe

LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class Job:
    """All values that decide the result of a run. Copies made with `dataclasses.replace` share the tokenised rows."""

    task: str
    recipe: Recipe
    checkpoint: Checkpoint
    teacher: Checkpoint | None
    dataset: Dataset
    data_source: str
    seed: int
    threads: int
    tokenized: dict[tuple[str, str, int, LongTexts], TokenizedDataset] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Tokenised data by digest of the checkpoint, digest of the data and treatment of lengths; filled by `rows`."""
    hub_data_set: str | None = None
    """Id of the data set if it is one of the Hub, for the model card."""
    unlabeled: UnlabeledRows | None = None
    """More rows for the student, whose only target is the teacher's answer."""
    bigger_teacher: Checkpoint | None = None
    """Another network, whose logits teach the dense teacher and the student; None if the labels teach the first."""

    @property
    def multi_label(self) -> bool:
        """True if a row may have several labels."""
        return self.dataset.multi_label

    @property
    def teacher_or_checkpoint(self) -> Checkpoint:
        """The network that the dense teacher is made from: the given teacher, or the checkpoint to fine-tune."""
        return self.teacher or self.checkpoint

    @property
    def teacher_learns_logits(self) -> bool:
        """True if the dense teacher learns a bigger teacher's logits or soft labels in place of labels."""
        return self.bigger_teacher is not None or self.dataset.train.soft is not None

    @property
    def start(self) -> Checkpoint:
        """The network that the student starts from. A teacher that is still to be fine-tuned is the checkpoint."""
        return starting_from(self.checkpoint, self.teacher, self.recipe)

    @property
    def unlabeled_split(self) -> Split | None:
        """The unlabelled rows that the student learns from; None without a teacher to answer for them."""
        return self.unlabeled.split if self.unlabeled is not None and self.recipe.imitates_teacher else None

    def unlabeled_rows(self, network: Checkpoint) -> TokenizedSplit | None:
        """Return the unlabelled rows that the student learns from, as tokens of this network."""
        split = self.unlabeled_split
        return None if split is None else self.rows(network, replace(self.dataset, train=split)).train

    def rows(self, network: Checkpoint, dataset: Dataset | None = None) -> TokenizedDataset:
        """Return the job's data, or another dataset, as tokens of this network; each is tokenised once."""
        dataset = dataset or self.dataset
        max_length, long_texts = self.recipe.max_length, self.recipe.long_texts
        key = (network.digest, dataset.digest, max_length, long_texts)
        if key not in self.tokenized:
            self.tokenized[key] = TokenizedDataset(dataset, network.tokenizer, max_length, long_texts)
        return self.tokenized[key]

    def row_count(self, split: str) -> int:
        """Return the number of rows of a split as networks see it: a window of a long text is one row."""
        rows = self.rows(self.checkpoint) if self.recipe.long_texts.windowed else self.dataset
        return len(getattr(rows, split))


def starting_from(checkpoint: Checkpoint, teacher: Checkpoint | None, recipe: Recipe) -> Checkpoint:
    """Return the given network that the student takes its weights from."""
    return teacher if teacher is not None and recipe.student.start == "teacher" else checkpoint


@dataclass(frozen=True)
class SparseRuntime:
    """The sparse runtime's library on this machine. Its answers and times depend on the digest."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Environment:
    """The machine and the software that a job runs on, as far as results depend on them."""

    libraries: dict[str, str]
    machine: Machine
    cpus: int
    sparse_runtime: SparseRuntime | None

    @classmethod
    def detect(cls) -> "Environment":
        """Return the environment of this process."""
        try:
            library = find_library()
            runtime = SparseRuntime(library.path, f"{library.isa} {sha256(library.path)}")
        except LibraryError:
            runtime = None
        return cls(library_versions(), describe_machine(), available_cpus(), runtime)

    def measured_threads(self, recipe: Recipe) -> int:
        """Return the number of threads of every arm of the latency measurement."""
        return recipe.measurement.threads or self.cpus


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on."""
    return {name: version(name) for name in LIBRARIES}


def common_inputs(job: Job, environment: Environment) -> dict[str, Any]:
    """Return the inputs that every step on a network depends on."""
    long_texts = job.recipe.long_texts
    return {
        "data": job.dataset.digest,
        "max_length": job.recipe.max_length,
        "seed": job.seed,
        "libraries": environment.libraries,
        **({"long_texts": long_texts.model_dump(mode="json")} if long_texts.windowed else {}),
    }
