"""Result files of the kernel benchmark: resumed runs, and their page."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kernels.arms import FP32, INT8
from benchmarks.kernels.peaks import byte_products_per_second
from benchmarks.kernels.publish import section
from benchmarks.kernels.record import Record
from benchmarks.kernels.run import cells_of
from sparserve.kernels.library import Library

MACHINE = {"cpu": "AMD EPYC", "isa": ["avx2"], "cores": 2, "onnxruntime": "1.31.1"}
CONDITIONS = {"machine": MACHINE, "isa": "avx2", "seconds_a_cell": 10.0, "noisy": False, "peers": {"openvino": "1"}}
CELLS = [(1, 16, 1), (1, 128, 1), (8, 128, 2)]


def cell(batch: int, length: int, threads: int) -> dict[str, Any]:
    medians = {FP32: 0.2, INT8: 0.1, "95 % int8": 0.01}
    return {"batch": batch, "length": length, "threads": threads, "rounds": 5, "median_seconds": medians}


def test_record_resumes_a_run(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    first = Record(path, CONDITIONS)
    assert first.begin("bert-base", CELLS) == CELLS
    first.add("bert-base", cell(1, 128, 1), files={FP32: {"bytes": 1}}, profiles={"one": {}})
    resumed = Record(path, CONDITIONS)
    assert resumed.begin("bert-base", CELLS) == [CELLS[0], CELLS[2]]
    assert resumed.begin("minilm-l6", CELLS) == CELLS
    resumed.add("bert-base", cell(1, 16, 1), files={FP32: {"bytes": 1}}, profiles={"other": {}})
    written = json.loads(path.read_text())["shapes"]["bert-base"]
    assert [one["length"] for one in written["cells"]] == [16, 128]
    assert set(written["profiles"]) == {"one", "other"}
    assert Record(path, CONDITIONS).begin("bert-base", CELLS[:2]) == []


def test_record_keeps_results_of_other_conditions_unless_they_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    old = Record(path, CONDITIONS)
    for shape in ("bert-base", "minilm-l6"):
        old.begin(shape, CELLS)
        old.add(shape, cell(1, 16, 1))
    elsewhere = {**CONDITIONS, "machine": {**MACHINE, "cpu": "another"}}
    with pytest.raises(SystemExit, match=r"bert-base from .* in other conditions \(machine\): --replace"):
        Record(path, elsewhere).begin("bert-base", CELLS)
    new = Record(path, elsewhere, replace=True)
    assert new.begin("bert-base", CELLS) == CELLS
    new.add("bert-base", cell(1, 128, 1))
    shapes = json.loads(path.read_text())["shapes"]
    assert [one["length"] for one in shapes["bert-base"]["cells"]] == [128]
    assert [one["length"] for one in shapes["minilm-l6"]["cells"]] == [16]
    assert Record(path, elsewhere, replace=True).begin("bert-base", CELLS) == [CELLS[0], CELLS[2]]


def test_section_names_conditions_peaks_and_accuracy(tmp_path: Path) -> None:
    record = Record(tmp_path / "kernels.json", {**CONDITIONS, "noisy": True})
    stages = dict.fromkeys(
        ("quantize", "projections", "attention", "attention_output", "norm", "intermediate", "output"), 0.001
    )
    profile = {
        "seconds": {**stages, "whole": 0.01},
        "multiply_adds": {"linears": 4_000_000, "attention": 1_000_000},
    }
    facts: dict[str, Any] = {
        "files": {FP32: {"bytes": 2e6, "encoder_bytes": 1e6, "accuracy": 0.913}},
        "profiles": {"95 % int8, 1 x 128": profile},
        "peak_one_thread": {
            "fp32_multiply_adds_per_second": 10e9,
            "byte_multiply_adds_per_second": 50e9,
            "copy_bytes_per_second": 5e9,
        },
    }
    record.begin("reviews (trained)", CELLS)
    record.add("reviews (trained)", cell(1, 128, 1), **facts)
    page = section(json.loads(record.path.read_text()))
    assert "### AVX2\n" in page
    assert "these figures are preliminary" in page
    assert "`python -m benchmarks.kernels --store STORE --task reviews --seconds 10`" in page
    assert "| 95 % int8 | 20.0 / 10.0 |" in page
    assert "| 95 % int8, 1 x 128 | 4 | 1.0 | 10 % | 2 % | 1 | 1.0 | 10 % | 2 % |" in page
    assert "| ORT fp32 dense | 2.0 | 1.0 | 91.30 % |" in page


def test_cells_of_newer_families_are_on_one_thread() -> None:
    assert cells_of("ettin-17m", None, full=False) == [(1, 16, 1), (1, 128, 1), (1, 512, 1), (8, 128, 1)]
    assert cells_of("ettin-17m", [(2, 7)], full=True) == [(2, 7, 1)]
    assert (1, 512, 1) in cells_of("bert-base", None, full=False)
    assert (8, 128, 2) in cells_of("bert-base", None, full=False)


def test_byte_products_run_on_this_machine(sparse_runtime: Library) -> None:
    rate = byte_products_per_second(sparse_runtime.isa)
    assert sparse_runtime.isa == "portable" or (rate is not None and rate > 0)
