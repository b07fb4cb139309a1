"""One trial: a normal run of a candidate's recipe, and the score of its variants on the validation split."""

from dataclasses import dataclass, replace

import numpy as np

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, Bundle
from sparserve.models.bundle.manifest import LatencyPoint
from sparserve.models.bundle.variants import DENSE, Arm, Variant
from sparserve.models.errors import CheckpointError, ParityError, RecipeError, TrainingError
from sparserve.models.evaluation.scores import DECIMALS
from sparserve.models.pipeline.job import Run
from sparserve.models.pipeline.plan import make_plan
from sparserve.models.pipeline.stages.measurement import read_measurement
from sparserve.models.pipeline.stages.prediction import read_logits
from sparserve.models.pipeline.stages.teacher_outputs import teacher_outputs_fit
from sparserve.models.pipeline.step_cache import Context
from sparserve.models.progress import Reporter
from sparserve.models.recipes.schema import Recipe
from sparserve.models.search.ladders import Candidate
from sparserve.models.search.outcomes import Outcome, Serving
from sparserve.models.training.trainer import score


@dataclass(frozen=True)
class RunTrials:
    """Runs candidates in the store and workspace of a run that was prepared for their data and checkpoint."""

    prepared: Run
    reporter: Reporter

    def __call__(self, candidate: Candidate) -> Outcome:
        """Make the candidate's variants, publish them, and score them on validation.

        A level is a failed outcome if training diverges, if too little of the network is left, or if its graph cannot
        be made or computes something else. A failure of the dense baseline is raised, since all candidates share it.
        """
        run = with_recipe(self.prepared, candidate.recipe)
        try:
            run.execute(self.reporter, default=Variant(DENSE))  # until the search has chosen
        except (TrainingError, RecipeError, CheckpointError, ParityError) as error:
            if error.step in run.plan.baseline_steps:
                raise
            return Outcome(variant=candidate.variant, failure=str(error))
        servings = self._servings(run)
        return Outcome(
            variant=candidate.variant,
            servings=tuple(serving for serving in servings if not serving.arm.variant.is_dense),
            baseline=tuple(serving for serving in servings if serving.arm.variant.is_dense),
        )

    def _servings(self, run: Run) -> tuple[Serving, ...]:
        """Return every file that the run's variants can be served from, the dense ones included."""
        plan, context = run.plan, Context(run.workspace, self.reporter)
        # The bundle may be older than this run and know another latency grid: the run's own measurement counts.
        measured = read_measurement(run.workspace.path(plan.measurement))
        bundles = {variant: run.store.open(plan.job.task, str(variant)) for variant in plan.exports}
        arms = [arm for arm in plan.validations if arm.runtime == "onnx" or _is_packed(bundles[arm.variant])]
        arms.sort(key=lambda arm: list(plan.exports).index(arm.variant))
        scores = {arm: self._score(run, arm, context) for arm in arms}
        dense = scores[Arm(Variant(DENSE))]
        return tuple(_serving(arm, bundles[arm.variant], measured[arm].latency, scores[arm], dense) for arm in arms)

    def _score(self, run: Run, arm: Arm, context: Context) -> float:
        """Return the accuracy on the validation split; macro F1 for multi-label tasks, as in training."""
        job = run.plan.job
        logits = read_logits(context.result(run.plan.validations[arm]))
        labels = np.asarray(job.dataset.validation.labels)
        return round(score(logits, labels, multi_label=job.multi_label), DECIMALS)


def with_recipe(run: Run, recipe: Recipe) -> Run:
    """Return the same data, checkpoint and store with another recipe."""
    job = replace(run.plan.job, recipe=recipe)
    plan = make_plan(job, run.plan.environment, store_teacher_outputs=teacher_outputs_fit(job))
    return replace(run, plan=plan)


def _is_packed(bundle: Bundle) -> bool:
    return SPARSE_MODEL in bundle.manifest.files


def _serving(
    arm: Arm, bundle: Bundle, latency: tuple[LatencyPoint, ...], accuracy: float, dense_accuracy: float
) -> Serving:
    manifest = bundle.manifest
    sparse = manifest.measurement.sparse if manifest.measurement else None
    return Serving(
        variant=str(arm.variant),
        version=manifest.version,
        precision=manifest.precision,
        runtime=arm.runtime,
        preferred=(arm.runtime == "sparse") == bool(sparse and sparse.preferred),
        bytes=manifest.files[SPARSE_MODEL if arm.runtime == "sparse" else MODEL].bytes,
        latency=latency,
        accuracy=accuracy,
        drop_points=round(100 * (dense_accuracy - accuracy), 4),
    )
