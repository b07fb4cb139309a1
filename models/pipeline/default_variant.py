"""The variant that answers for a task while nobody has chosen one."""

from collections.abc import Collection

import numpy as np

from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.evaluation.one_score import paired_errors
from sparserve.models.evaluation.scores import paired_comparison
from sparserve.models.pipeline.plan import Plan
from sparserve.models.pipeline.stages.prediction import read_logits
from sparserve.models.pipeline.step_cache import Context, Step


def choice_steps(plan: Plan) -> list[Step]:
    """Return the steps that the choice reads; none if there is no choice."""
    fp32, int8 = _candidates(plan)
    if int8 not in plan.exports:
        return []
    sparse = Arm(int8, "sparse")
    return [plan.validations[Arm(fp32)], plan.validations[sparse if sparse in plan.validations else Arm(int8)]]


def choose_default(plan: Plan, context: Context, arms: Collection[Arm]) -> Variant:
    """Return the best of the recipe's variants: its int8 twin, unless that measurably loses accuracy.

    The int8 variant is the smaller and faster one. It is compared with the fp32 variant on the same validation rows, in
    the sparse runtime if it runs there (is in `arms`), by the exact McNemar test. It is the best unless it gets fewer
    rows right and the test calls the difference significant (p < 0.05). Of models with one score the squared errors are
    compared by a paired t-test, and a root mean squared error that grows by at most 1 % is no loss. The test rows
    decide nothing.
    """
    fp32, int8 = _candidates(plan)
    if int8 not in plan.exports:
        return fp32
    sparse = Arm(int8, "sparse")
    arm = sparse if sparse in arms else Arm(int8)
    dataset = plan.job.dataset
    int8_logits, fp32_logits = (read_logits(context.result(plan.validations[one])) for one in (arm, Arm(fp32)))
    labels = np.asarray(dataset.validation.labels)
    rows = f"On {len(dataset.validation):,} validation rows"
    if dataset.one_score:
        errors = paired_errors(int8_logits, fp32_logits, labels, sigmoid=dataset.multi_label)
        is_worse = errors.is_worse
        figures = (
            f"{rows} the root mean squared error of {fp32} is {errors.reference_error:.4g}, that of {arm} "
            f"{errors.error:.4g} (paired t-test p = {errors.p:.2g}"
        )
    else:
        comparison = paired_comparison(int8_logits, fp32_logits, labels, dataset.problem_type)
        is_worse = comparison.is_worse
        figures = (
            f"{rows} {fp32} alone is right on {comparison.only_reference_right:,} and {arm} alone on "
            f"{comparison.only_this_right:,} (McNemar p = {comparison.p:.2g}"
        )
    verdict = f"{int8} loses accuracy, so {fp32} is the default" if is_worse else f"{int8} is the default"
    context.reporter.say(f"{figures}): {verdict}")
    return fp32 if is_worse else int8


def _candidates(plan: Plan) -> tuple[Variant, Variant]:
    name = plan.job.recipe.variant_name
    return Variant(name), Variant(name, "int8")
