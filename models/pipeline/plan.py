"""The plan of a job: its steps in order, and the names of their results.

Making a plan is pure: it runs, loads, probes and writes nothing.
"""

from dataclasses import dataclass, replace
from typing import Any

from sparserve.models.bundle.variants import DENSE, Arm, Variant
from sparserve.models.pipeline.inputs import Environment, Job, common_inputs
from sparserve.models.pipeline.stages.augmentation import augmentation_step, student_inputs, student_row_count
from sparserve.models.pipeline.stages.bigger_teacher import bigger_teacher_step, bigger_teacher_test_step
from sparserve.models.pipeline.stages.export import export_step
from sparserve.models.pipeline.stages.measurement import measurement_step
from sparserve.models.pipeline.stages.pack import pack_step
from sparserve.models.pipeline.stages.prediction import prediction_step
from sparserve.models.pipeline.stages.quantization import quantization_step
from sparserve.models.pipeline.stages.squeeze import squeeze_step
from sparserve.models.pipeline.stages.student import StudentLesson, student_step
from sparserve.models.pipeline.stages.student_settings import student_settings_step
from sparserve.models.pipeline.stages.teacher import teacher_step
from sparserve.models.pipeline.stages.teacher_outputs import teacher_outputs_fit, teacher_outputs_step
from sparserve.models.pipeline.stages.teacher_settings import teacher_settings_step
from sparserve.models.pipeline.step_cache import Step
from sparserve.models.recipes.schema import Recipe
from sparserve.models.training.tuning import rules


@dataclass(frozen=True)
class Plan:
    """The steps of a job in order, and by name those whose results are published."""

    job: Job
    environment: Environment
    steps: tuple[Step, ...]
    """Every step of a run. A step that the recipe does not ask for is absent."""
    teacher_settings: Step | None
    """Finds the teacher's training; None if the recipe fixes it or the teacher is given."""
    teacher: Step
    student: Step
    lesson: StudentLesson
    """The network that the student starts from, and all that it learns from."""
    exports: dict[Variant, Step]
    """Graphs for stock onnxruntime. The dense variant is the first."""
    packs: dict[Variant, Step]
    """Graphs for the sparse runtime."""
    predictions: dict[Arm, Step]
    """Logits of the test rows."""
    validations: dict[Arm, Step]
    """Logits of the validation rows, with which variants are compared before one is chosen; not part of every run."""
    measurement: Step
    bigger_teacher: Step | None = None
    """Logits of the test rows by the bigger teacher of a chain."""
    student_settings: Step | None = None
    """Finds the student's learning rate; None if the recipe fixes it."""

    @property
    def networks(self) -> dict[str, Step]:
        """The step that makes each network, by the name that its variants have."""
        return {DENSE: self.teacher, self.job.recipe.variant_name: self.student}

    @property
    def baseline_steps(self) -> frozenset[str]:
        """Names of the steps that make and evaluate the dense baseline, which do not depend on the student."""
        dense = [step for variant, step in self.exports.items() if variant.is_dense]
        judged = [step for arm, step in (*self.predictions.items(), *self.validations.items()) if arm.variant.is_dense]
        training = [step for step in (self.teacher_settings, self.teacher) if step is not None]
        return frozenset(step.name for step in (*training, *dense, *judged))


def plan_job(job: Job, environment: Environment | None = None) -> Plan:
    """Make the plan of a job after finding out the facts that it depends on: this machine, and the data's tokens."""
    return make_plan(job, environment or Environment.detect(), store_teacher_outputs=teacher_outputs_fit(job))


def make_plan(job: Job, environment: Environment, *, store_teacher_outputs: bool) -> Plan:
    """Lay out the steps of a job.

    With `store_teacher_outputs` the teacher's outputs are stored before the student learns from them; without, the
    teacher runs beside the student.
    """
    job = replace(job, recipe=_adapted(job))
    recipe, common = job.recipe, common_inputs(job, environment)

    settings = teacher_settings_step(job, common) if job.teacher is None and recipe.teacher is None else None
    bigger, targets, test_logits = job.bigger_teacher, None, None
    if bigger is not None:
        targets = bigger_teacher_step(job, bigger, student_inputs(job, None, common))
        test_logits = bigger_teacher_test_step(job, bigger, common)
    teacher = teacher_step(job, common, settings, targets)
    augmentation = augmentation_step(job, recipe.augmentation, common) if recipe.augmentation else None
    rows = student_inputs(job, augmentation, common)
    student_targets = targets if recipe.imitates_teacher else None
    if bigger is not None and student_targets is not None and augmentation is not None:
        student_targets = bigger_teacher_step(job, bigger, rows, augmentation)
    outputs = (
        teacher_outputs_step(job, recipe.distillation, rows, teacher, augmentation)
        if recipe.distillation and store_teacher_outputs
        else None
    )
    squeeze = squeeze_step(job, recipe.squeeze, common, teacher) if recipe.squeeze else None
    lesson = StudentLesson(job, rows, teacher, augmentation, outputs, squeeze, student_targets)
    finds = recipe.student.learning_rate is None
    student_settings = student_settings_step(lesson) if finds else None
    student = student_step(lesson, student_settings)

    exports: dict[Variant, Step] = {}
    packs: dict[Variant, Step] = {}
    quantizations = {DENSE: recipe.baseline_quantization, recipe.variant_name: recipe.quantization}
    networks = {DENSE: teacher, recipe.variant_name: student}
    for name, network in networks.items():
        variants = [Variant(name), Variant(name, "int8")] if quantizations[name].enabled else [Variant(name)]
        fp32 = exports[Variant(name)] = export_step(job, Variant(name), network, common)
        for variant in variants:
            if variant.is_int8:
                exports[variant] = quantization_step(variant, fp32, quantizations[name])
            if not variant.is_dense:
                packs[variant] = pack_step(job, environment, variant, fp32, network)
    graphs = {Arm(variant): (step, networks[variant.name]) for variant, step in exports.items()}
    if environment.sparse_runtime is not None:
        graphs |= {Arm(variant, "sparse"): (step, student) for variant, step in packs.items()}
    predictions = {arm: prediction_step(job, environment, arm, *made) for arm, made in graphs.items()}
    validations = {arm: prediction_step(job, environment, arm, *made, "validation") for arm, made in graphs.items()}
    measurement = measurement_step(job, environment, exports, packs)

    made = (targets, settings, teacher, augmentation, student_targets, outputs, squeeze, student_settings, student)
    training = dict.fromkeys(step for step in made if step is not None)
    judged = [*predictions.values(), *([test_logits] if test_logits else [])]
    steps = (*training, *exports.values(), *packs.values(), *judged, measurement)
    return Plan(
        job,
        environment,
        steps,
        settings,
        teacher,
        student,
        lesson,
        exports,
        packs,
        predictions,
        validations,
        measurement,
        bigger_teacher=test_logits,
        student_settings=student_settings,
    )


def _adapted(job: Job) -> Recipe:
    """Return the recipe with the student's passes over the job's rows and its learning rate for the job's network."""
    recipe, student = job.recipe, job.recipe.student
    changes: dict[str, Any] = {}
    if student.least_steps:
        rows = student_row_count(job)
        epochs = rules.student_epochs(student.epochs, student.least_steps, rows, student.batch_size)
        changes |= {"epochs": epochs, "least_steps": 0}
    if student.reference_width is not None and student.learning_rate is not None:
        width = student.hidden_size or job.start.hidden_size
        rate = rules.scaled_rate(student.learning_rate, student.reference_width, width)
        changes |= {"learning_rate": rate, "reference_width": None}
    return recipe.model_copy(update={"student": student.model_copy(update=changes)})
