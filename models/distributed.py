"""Several processes on one job: the main one carries it out, the others take part in whatever is trained.

`accelerate launch --num_processes N -m sparserve compress ...` starts one process per GPU for N GPUs;
`torchrun --nproc_per_node N -m sparserve compress ...` also works without GPUs. All processes see the same
folders; only the main one writes results.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Protocol

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sparserve.models.errors import RecipeError, TrainingError

# The others wait while the main process reads data, exports and measures.
LONGEST_WAIT = timedelta(days=30)


class Work(Protocol):
    """A training step with all that it needs but a place to tell its progress; it can be pickled."""

    def __call__(self, *, progress: Callable[[int, int, str], None]) -> None:
        """Do it."""


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Within the block the main process carries out a job; every other one only helps, and leaves when that is done.

    After an exception in the block the others are not told to leave: whatever launched them ends them.

    Raises:
        SystemExit: in every process but the main one, with status 0.
    """
    if distributed.is_torchelastic_launched():
        # Gloo beside NCCL: processes that wait do not keep their GPUs busy.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if uses_gpu() else "gloo", timeout=LONGEST_WAIT)
    PartialState(cpu=not uses_gpu(), timeout=LONGEST_WAIT)
    if is_main():
        yield
        if count() > 1:
            _shared(None)
            distributed.destroy_process_group()
        return
    while (work := _shared(None)) is not None:
        # Training that cannot begin or go on stops in all processes at the same step: the main one tells of it.
        with contextlib.suppress(TrainingError, RecipeError):
            work(progress=lambda done, total, note: None)
    distributed.destroy_process_group()
    sys.exit()


def everywhere(work: Work, progress: Callable[[int, int, str], None]) -> None:
    """Do `work` in the main process, which calls this within `leading`, and in all others; `progress` is the main's."""
    if count() > 1:
        _shared(work)
    work(progress=progress)


def uses_gpu() -> bool:
    """Whether networks are trained on a GPU: there is one, and `accelerate launch --cpu` does not forbid it."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def idle_gpus() -> str | None:
    """A sentence for the user if there are GPUs that no process of this job uses."""
    gpus = torch.cuda.device_count() if uses_gpu() else 0
    if count() > 1 or gpus < 2:
        return None
    return (
        f"One of {gpus} GPUs is used; `accelerate launch --num_processes {gpus} -m sparserve compress ...` "
        "trains on all of them"
    )


def count() -> int:
    """How many processes work on the job."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes results."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait() -> None:
    """Go on when all processes have come to this line."""
    if distributed.is_initialized():
        distributed.barrier()


def rows_each(batch_size: int) -> int:
    """Rows of a batch of `batch_size` rows that each process takes, so that a recipe means the same on any number.

    Raises:
        RecipeError: the processes cannot have equally many.
    """
    if batch_size % count():
        raise RecipeError(
            f"batch_size is {batch_size}, which {count()} processes cannot share evenly: give the recipe a multiple of "
            f"{count()}, or launch a number of processes that divides {batch_size}"
        )
    return batch_size // count()


def mean(value: torch.Tensor) -> torch.Tensor:
    """The mean over all processes of a tensor that every one of them has, without gradient; not a number if one is."""
    value = value.detach()
    if count() > 1:
        value = value / count()
        distributed.all_reduce(value)
    return value


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, where `model` is what averages its gradients over processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _shared(work: Work | None) -> Work | None:
    """What the main process gives here, in every process; None: the job is done."""
    shared = [work]
    distributed.broadcast_object_list(shared)
    return shared[0]
