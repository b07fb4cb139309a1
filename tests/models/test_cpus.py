"""Instruction sets, as the system lists them."""

from pathlib import Path

import pytest

from sparserve.models.cpus import instruction_sets


@pytest.mark.parametrize(
    "text, expected",
    [
        ("processor\t: 0\nflags\t\t: fpu fma avx2 avx512_vnni\n\nflags\t\t: avx\n", ("avx2", "fma", "avx512_vnni")),
        ("Features\t: fp asimd asimddp i8mm bf16\n", ("asimd", "asimddp", "i8mm", "bf16")),
        ("model name\t: none\n", None),
    ],
)
def test_instruction_sets_are_those_of_the_first_processor(
    tmp_path: Path, text: str, expected: tuple[str, ...] | None
) -> None:
    description = tmp_path / "cpuinfo"
    description.write_text(text)
    assert instruction_sets(description) == expected


def test_instruction_sets_are_unknown_without_a_description(tmp_path: Path) -> None:
    assert instruction_sets(tmp_path / "none") is None
