"""Variants and arms: their names are parsed and formatted in one place."""

import pytest

from sparserve.models.bundle.variants import DENSE, Arm, Variant


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("dense", Arm(Variant(DENSE))),
        ("dense-int8", Arm(Variant(DENSE, "int8"))),
        ("best95", Arm(Variant("best95"))),
        ("best95-int8 in the sparse runtime", Arm(Variant("best95", "int8"), "sparse")),
    ],
)
def test_arm_parses_what_it_formats(text: str, arm: Arm) -> None:
    assert Arm.parse(text) == arm
    assert str(arm) == text
    assert arm.variant.is_dense == text.startswith("dense")
