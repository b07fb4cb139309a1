"""Several processes on one job: the main process runs it, the others take part in training only.

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

# The other processes wait while the main one reads data, exports and measures.
LONGEST_WAIT = timedelta(days=30)


class Work(Protocol):
    """A training with all its arguments except `progress`; it can be pickled."""

    def __call__(self, *, progress: Callable[[int, int, str], None]) -> None:
        """Train, and report the progress."""


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Let the main process run the block; every other process only takes part in training, and exits at its end.

    After an exception in the block the other processes keep waiting: their launcher ends them.

    Raises:
        SystemExit: in every process but the main one, with status 0.
    """
    if distributed.is_torchelastic_launched():
        # Gloo beside NCCL: a process that waits in Gloo does not keep its GPU busy.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if uses_gpu() else "gloo", timeout=LONGEST_WAIT)
    PartialState(cpu=not uses_gpu(), timeout=LONGEST_WAIT)
    if is_main():
        yield
        if count() > 1:
            _shared(None)
            distributed.destroy_process_group()
        return
    while (work := _shared(None)) is not None:
        # Training that fails stops in all processes at the same step; the main process reports the error.
        with contextlib.suppress(TrainingError, RecipeError):
            work(progress=lambda done, total, note: None)
    distributed.destroy_process_group()
    sys.exit()


def everywhere(work: Work, progress: Callable[[int, int, str], None]) -> None:
    """Do `work` in all processes. The main one calls this within `leading`, and it alone reports to `progress`."""
    if count() > 1:
        _shared(work)
    work(progress=progress)


def uses_gpu() -> bool:
    """Return True if networks are trained on a GPU: there is one, and `accelerate launch --cpu` does not forbid it."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def idle_gpus() -> str | None:
    """Return a sentence for the user if there are GPUs that no process of this job uses."""
    gpus = torch.cuda.device_count() if uses_gpu() else 0
    if count() > 1 or gpus < 2:
        return None
    return (
        f"One of {gpus} GPUs is used; `accelerate launch --num_processes {gpus} -m sparserve compress ...` "
        "trains on all of them"
    )


def count() -> int:
    """Return the number of processes that work on the job."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Return True in the process that writes results."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait() -> None:
    """Wait until all processes have reached this call."""
    if distributed.is_initialized():
        distributed.barrier()


def rows_each(batch_size: int) -> int:
    """Return each process's share of a batch, so that a recipe means the same for any number of processes.

    Raises:
        RecipeError: the batch cannot be divided evenly.
    """
    if batch_size % count():
        raise RecipeError(
            f"batch_size is {batch_size}, which {count()} processes cannot share evenly: give the recipe a multiple of "
            f"{count()}, or launch a number of processes that divides {batch_size}"
        )
    return batch_size // count()


def mean(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes, without gradient; NaN if one of them has NaN."""
    value = value.detach()
    if count() > 1:
        value = value / count()
        distributed.all_reduce(value)
    return value


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network itself if `model` is a wrapper that averages gradients over processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _shared(work: Work | None) -> Work | None:
    """Return in every process the work that the main process passes; None means that the job is done."""
    shared = [work]
    distributed.broadcast_object_list(shared)
    return shared[0]
