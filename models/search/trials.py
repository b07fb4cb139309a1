"""One trial: a normal run of a candidate's recipe, and its variants' score on the validation split."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, Bundle
from sparserve.models.bundle.inference import sparse_library
from sparserve.models.bundle.manifest import LatencyPoint, Measurement
from sparserve.models.bundle.variants import _INT8 as INT8
from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.errors import CheckpointError, ParityError, RecipeError, TrainingError
from sparserve.models.evaluation.prediction import predict
from sparserve.models.evaluation.scores import DECIMALS
from sparserve.models.pipeline.job import Run
from sparserve.models.pipeline.plan import DENSE, Plan, make_plan
from sparserve.models.pipeline.step_cache import Step
from sparserve.models.progress import Reporter
from sparserve.models.recipes.schema import Recipe
from sparserve.models.search.ladders import Candidate
from sparserve.models.search.outcomes import Outcome, Serving
from sparserve.models.training.trainer import score


@dataclass(frozen=True)
class RunTrials:
    """Carries candidates out in the store and workspace of a run that was prepared for their data and checkpoint."""

    prepared: Run
    reporter: Reporter

    def __call__(self, candidate: Candidate) -> Outcome:
        """Make the candidate's variants, publish them, and score them on validation.

        A level at which training diverges, that leaves too little of the network, or whose graph cannot be made or
        computes something else, is an outcome: the failed one. What fails of the dense baseline fails for all.
        """
        run = with_recipe(self.prepared, candidate.recipe)
        try:
            run.execute(self.reporter, answering=DENSE)  # until the search has judged
        except (TrainingError, RecipeError, CheckpointError, ParityError) as error:
            if not _reached_its_own(run):
                raise
            return Outcome(variant=candidate.variant, failure=str(error))
        found = self._servings(run)
        baseline = tuple(serving for serving in found if serving.variant.removesuffix(INT8) == DENSE)
        servings = tuple(serving for serving in found if serving not in baseline)
        return Outcome(variant=candidate.variant, servings=servings, baseline=baseline)

    def _servings(self, run: Run) -> tuple[Serving, ...]:
        """Every file that the run's variants can be served from, and those of the dense ones."""
        plan, task = run.plan, run.plan.job.task
        stored = json.loads((run.workspace.path(plan.measurement) / "measurement.json").read_bytes())
        dense = self._score(run, run.store.open(task, DENSE), sparse=False)
        servings: list[Serving] = []
        for variant in plan.exports:
            bundle = run.store.open(task, variant)
            # The bundle may be older than this run and know another latency grid: the run's own measurement counts.
            latency = {
                sparse: _latency(stored, str(Arm(Variant.parse(variant), "sparse" if sparse else "onnx")))
                for sparse in ([False, True] if _runs_sparse(plan, bundle) else [False])
            }
            measured = bundle.manifest.measurement
            sparse_preferred = bool(measured and measured.sparse and measured.sparse.preferred)
            for sparse, points in latency.items():
                score = self._score(run, bundle, sparse=sparse)
                servings.append(
                    Serving(
                        variant=variant,
                        version=bundle.manifest.version,
                        precision=bundle.manifest.precision,
                        runtime="sparse" if sparse else "onnx",
                        preferred=sparse_preferred == sparse,
                        bytes=bundle.manifest.files[SPARSE_MODEL if sparse else MODEL].bytes,
                        latency=points,
                        accuracy=score,
                        drop_points=round(100 * (dense - score), 4),
                    )
                )
        return tuple(servings)

    def _score(self, run: Run, bundle: Bundle, *, sparse: bool) -> float:
        """Accuracy of a bundle's graph on the validation split; macro F1 for multi-label tasks, as training has it."""
        job, variant = run.plan.job, bundle.manifest.variant
        predicted = (run.plan.sparse_predictions if sparse else run.plan.predictions)[variant]
        title = f"validate {variant}{' sparse' if sparse else ''}"
        step = Step(title, {**predicted.inputs, "split": "validation"})
        folder = run.workspace.run(step, self._validation_builder(run, bundle, sparse=sparse), self.reporter)
        labels = np.asarray(job.dataset.validation.labels)
        return round(score(np.load(folder / "logits.npy"), labels, multi_label=job.multi_label), DECIMALS)

    def _validation_builder(self, run: Run, bundle: Bundle, *, sparse: bool) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            logits = predict(
                bundle.sparse_model_path if sparse else bundle.model_path,
                bundle.tokenizer_path,
                run.plan.job.dataset.validation,
                max_length=bundle.manifest.max_length,
                pad_token_id=bundle.manifest.pad_token_id,
                threads=run.plan.job.threads,
                progress=self.reporter.advance,
                library=sparse_library().path if sparse else None,
            )
            np.save(folder / "logits.npy", logits)

        return build


def with_recipe(run: Run, recipe: Recipe) -> Run:
    """The same data, checkpoint and store with another recipe."""
    return replace(run, plan=make_plan(replace(run.plan.job, recipe=recipe)))


def _reached_its_own(run: Run) -> bool:
    """Whether what a run ended at is the candidate's own, not the dense baseline that all candidates share."""
    plan = run.plan
    shared = [plan.teacher, *(step for variant, step in plan.exports.items() if variant.removesuffix(INT8) == DENSE)]
    in_order = (plan.teacher, plan.student, *plan.exports.values())
    return next((step for step in in_order if not run.workspace.has(step)), None) not in shared


def _latency(stored: dict[str, object], arm: str) -> tuple[LatencyPoint, ...]:
    return Measurement.model_validate(stored[arm]).latency


def _runs_sparse(plan: Plan, bundle: Bundle) -> bool:
    return bundle.manifest.variant in plan.sparse_predictions and SPARSE_MODEL in bundle.manifest.files
