"""The two networks of a job, the fine-tuned teacher and its student: every step between them is cached."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from sparserve.models.distributed import everywhere, rows_each
from sparserve.models.encoders.checkpoint import Checkpoint, adopt, resolve_checkpoint
from sparserve.models.pipeline.plan import SHAPE, Plan
from sparserve.models.pipeline.step_cache import Workspace
from sparserve.models.progress import Reporter
from sparserve.models.training import student as students
from sparserve.models.training.augmentation import augment, read_split, write_split
from sparserve.models.training.teacher import cache_teacher, train_teacher

AUGMENTED = "train.jsonl"


def train_networks(plan: Plan, workspace: Workspace, reporter: Reporter) -> tuple[Checkpoint, Checkpoint]:
    """Fine-tune the teacher, unless one was given, and make the student; both as checkpoints of the workspace.

    Training is done by all processes (`processes.leading`), the other steps by the main one, which calls this.

    Raises:
        RecipeError: the processes cannot share a batch evenly.
    """
    if plan.job.recipe.student.epochs:
        rows_each(plan.job.recipe.student.batch_size)  # rather now than when the teacher is trained
    teacher = fine_tune(plan, workspace, reporter)
    student = _student(plan, teacher, workspace, reporter)
    return teacher, resolve_checkpoint(str(student), name=plan.job.checkpoint.name)


def fine_tune(plan: Plan, workspace: Workspace, reporter: Reporter) -> Checkpoint:
    """The dense teacher: the one that the job was given, or the checkpoint fine-tuned on its rows."""
    job, given = plan.job, plan.job.teacher
    if given is not None:
        folder = workspace.run(plan.teacher, lambda f: adopt(f, given), reporter)
        return resolve_checkpoint(str(folder), name=given.name)
    folder = workspace.run(
        plan.teacher,
        lambda f: everywhere(
            partial(
                train_teacher,
                f,
                checkpoint=job.checkpoint,
                dataset=job.dataset,
                training=job.recipe.teacher,
                max_length=job.recipe.max_length,
                seed=job.seed,
            ),
            reporter.advance,
        ),
        reporter,
    )
    return resolve_checkpoint(str(folder), name=job.checkpoint.name)


def _student(plan: Plan, teacher: Checkpoint, workspace: Workspace, reporter: Reporter) -> Path:
    """Everything between the teacher and the trained student, whose folder is returned."""
    job, recipe, advance = plan.job, plan.job.recipe, reporter.advance
    if workspace.has(plan.student):
        return workspace.run(plan.student, lambda f: None, reporter)
    dataset = job.dataset
    if plan.augmentation is not None and recipe.augmentation is not None:
        asked = recipe.augmentation
        folder = workspace.run(
            plan.augmentation,
            lambda f: write_split(
                augment(job.dataset.train, job.checkpoint, asked, seed=job.seed, progress=advance), f / AUGMENTED
            ),
            reporter,
        )
        dataset = replace(job.dataset, train=read_split(folder / AUGMENTED))
    cache: Path | None = None
    if plan.teacher_outputs is not None and recipe.distillation is not None:
        wanted = students.required_outputs(recipe.distillation)
        cache = workspace.run(
            plan.teacher_outputs,
            lambda f: cache_teacher(
                f, teacher=teacher, dataset=dataset, max_length=recipe.max_length, wanted=wanted, progress=advance
            ),
            reporter,
        )
    start = teacher if recipe.student.start == "teacher" else job.checkpoint
    if plan.squeeze is not None and recipe.squeeze is not None:
        squeeze = recipe.squeeze
        folder = workspace.run(
            plan.squeeze,
            lambda f: students.squeeze_student(
                f,
                recipe=recipe,
                squeeze=squeeze,
                start=start,
                dataset=job.dataset,
                seed=job.seed,
                progress=advance,
            ),
            reporter,
        )
        squeezed = resolve_checkpoint(str(folder), name=job.checkpoint.name)
        # What the squeezed network was started as is part of its shapes already.
        whole = recipe.student.model_copy(update=dict.fromkeys(SHAPE))
        recipe, start = recipe.model_copy(update={"student": whole}), squeezed

    def build(folder: Path) -> None:
        work = partial(
            students.train_student,
            folder,
            recipe=recipe,
            start=start,
            teacher=teacher,
            teacher_cache=cache,
            dataset=dataset,
            seed=job.seed,
        )
        everywhere(work, advance)

    return workspace.run(plan.student, build, reporter)
