import ctypes
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException

from sparserve.kernels.library import LIBRARY, STAGES, LibraryError, find_library, read_profile
from sparserve.kernels.packed_format import FORMAT_VERSION
from sparserve.kernels.packing import PackOptions, Values, pack_encoder, pack_linear
from tests.support.kernels.reference import (
    ISA_NAMES,
    encoder_session,
    model_bytes,
    random_encoder,
    random_linear,
    random_mask,
    run,
    session_options,
    supported_isas,
)


def find_afresh(path: Path = LIBRARY) -> Any:
    """Call `find_library` without its cache, which may hold the result of another SPARSERVE_ISA."""
    return find_library.__wrapped__(path)


def test_find_library_missing_names_the_build(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"not built: install a C\+\+20 compiler"):
        find_library(tmp_path / "libsparserve.so")


@pytest.mark.parametrize("content", [b"no library at all" * 9, b"\x7fELF" + b"\0" * 300])
def test_find_library_non_library_file_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(content)
    with pytest.raises(LibraryError, match=r"broken\.so (does not load|is truncated)"):
        find_library(path)


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.01, 0.5, 0.9999])
def test_find_library_truncated_file_is_not_loaded(sparse_runtime: Any, tmp_path: Path, kept: float) -> None:
    """The loader would touch missing pages and the process would die of SIGBUS."""
    whole = sparse_runtime.path.read_bytes()
    path = tmp_path / "cut.so"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(LibraryError, match=r"cut\.so is truncated: install sparserve again"):
        find_library(path)


def test_find_library_unreadable_file_is_named(sparse_runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError here would refuse every bundle instead of serving model.onnx."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LibraryError, match=r"libsparserve\.so does not load: .*Permission denied"):
        find_afresh()


def test_find_library_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="not built"):
        find_library(tmp_path)


def test_find_library_other_library_is_named(tmp_path: Path) -> None:
    import _ctypes

    path = tmp_path / "other.so"
    shutil.copy(_ctypes.__file__, path)
    with pytest.raises(LibraryError, match=r"other\.so does not load"):
        find_library(path)


def test_find_library_reports_isa_and_format_version(sparse_runtime: Any) -> None:
    assert sparse_runtime.path == LIBRARY
    assert sparse_runtime.isa in ISA_NAMES
    assert sparse_runtime.format_version == FORMAT_VERSION


def test_library_uses_best_isa_unless_set(sparse_runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSERVE_ISA", raising=False)
    assert find_afresh().isa == supported_isas()[0]
    for name in supported_isas():
        monkeypatch.setenv("SPARSERVE_ISA", name)
        assert find_afresh().isa == name
    monkeypatch.setenv("SPARSERVE_ISA", "")
    assert find_afresh().isa == supported_isas()[0]


OTHER_MACHINE = "neon" if os.uname().machine == "x86_64" else "avx2"


@pytest.mark.parametrize("nonsense", ["nonsense", "Portable", "portable ", OTHER_MACHINE])
def test_library_unknown_isa_is_an_error(sparse_runtime: Any, monkeypatch: pytest.MonkeyPatch, nonsense: Any) -> None:
    blob = pack_encoder(random_encoder())
    monkeypatch.setenv("SPARSERVE_ISA", nonsense)
    with pytest.raises(LibraryError, match="SPARSERVE_ISA"):
        find_afresh()
    with pytest.raises(RuntimeException, match=f"SPARSERVE_ISA={nonsense} is not available"):
        encoder_session(blob)
    monkeypatch.delenv("SPARSERVE_ISA")
    encoder_session(blob)


def test_library_session_keeps_its_isa(sparse_runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states, mask = np.ones((2, 5, 64), np.float32), np.ones((2, 5), np.int64)
    session = encoder_session(pack_encoder(random_encoder()))
    before = run(session, states=states, mask=mask)
    monkeypatch.setenv("SPARSERVE_ISA", "nonsense")
    assert np.array_equal(run(session, states=states, mask=mask), before)


def test_profile_names_every_stage(sparse_runtime: Any) -> None:
    counters = (ctypes.c_uint64 * len(STAGES))()
    assert ctypes.CDLL(str(sparse_runtime.path)).sparserve_profile(0, counters) == len(STAGES)


@pytest.mark.parametrize("first_token_only", [False, True])
@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_profile_has_time_of_every_stage(sparse_runtime: Any, values: Values, first_token_only: bool) -> None:
    session = encoder_session(
        pack_encoder(random_encoder(), PackOptions(values)), first_token_only=first_token_only, threads=2
    )
    states, mask = np.ones((8, 40, 64), np.float32), np.ones((8, 40), np.int64)
    read_profile(sparse_runtime, measure=True)
    run(session, states=states, mask=mask)
    seconds = read_profile(sparse_runtime, measure=False)
    assert set(seconds) == set(STAGES)
    idle = {"quantize"} if values == "fp32" else set()
    assert {name for name, spent in seconds.items() if spent == 0} == idle
    assert 0 < sum(seconds.values()) < 60


def test_profile_is_off_by_default(sparse_runtime: Any) -> None:
    session = encoder_session(pack_encoder(random_encoder()))
    states, mask = np.ones((2, 5, 64), np.float32), np.ones((2, 5), np.int64)
    read_profile(sparse_runtime, measure=False)
    run(session, states=states, mask=mask)
    assert sum(read_profile(sparse_runtime, measure=True).values()) == 0
    run(session, states=states, mask=mask)
    assert sum(read_profile(sparse_runtime, measure=False).values()) > 0
    assert sum(read_profile(sparse_runtime, measure=False).values()) == 0, "reading starts again from zero"


def test_library_registered_many_times(sparse_runtime: Any) -> None:
    blob = pack_encoder(random_encoder())
    states, mask = np.ones((2, 5, 64), np.float32), np.ones((2, 5), np.int64)
    sessions = [encoder_session(blob) for _ in range(3)]
    answers = [run(session, states=states, mask=mask) for session in sessions]
    del sessions
    gc.collect()
    answers.append(run(encoder_session(blob), states=states, mask=mask))
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_library_session_options_open_several_sessions(sparse_runtime: Any) -> None:
    blob = pack_linear(random_linear(np.random.default_rng(0), 3, 4, 1.0))
    node = helper.make_node("SparseLinear", ["x", "weights"], ["y"], domain="sparserve")
    model = model_bytes([node], {"x": TensorProto.FLOAT}, {"weights": blob})
    options, x = session_options(), np.ones((2, 4), np.float32)
    sessions = [onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(2)]
    first, second = (run(session, x=x) for session in sessions)
    assert np.array_equal(first, second)


def grown_bytes(work: Callable[[int], None], *, warm_up: int, count: int) -> int:
    """Return the growth of resident memory in bytes while the work is repeated `count` times."""
    process = psutil.Process()
    work(warm_up)
    gc.collect()
    before = process.memory_info().rss
    work(count)
    gc.collect()
    return int(process.memory_info().rss - before)


def test_library_memory_is_bounded_over_mixed_requests(sparse_runtime: Any) -> None:
    generator = np.random.default_rng(0)
    cases: tuple[tuple[Values, bool], ...] = (("fp32", False), ("int8", True))
    sessions = [
        encoder_session(pack_encoder(random_encoder(), PackOptions(values)), first_token_only=first, threads=2)
        for values, first in cases
    ]
    requests = []
    for batch, length in ((1, 1), (1, 200), (16, 12), (3, 70), (8, 128), (0, 5)):
        states = generator.standard_normal((batch, length, 64)).astype(np.float32)
        requests.append((states, random_mask(generator, batch, length)))
    wrong = np.zeros((1, 3, 63), np.float32), np.ones((1, 3), np.int64)

    def serve(count: int) -> None:
        for index in range(count):
            session = sessions[index % 2]
            if index % 9 == 8:
                with pytest.raises(InvalidArgument):
                    run(session, states=wrong[0], mask=wrong[1])
                continue
            states, mask = requests[index // 2 % len(requests)]
            run(session, states=states, mask=mask)

    assert grown_bytes(serve, warm_up=200, count=2000) < 8 * 2**20


def test_library_memory_is_bounded_over_sessions(sparse_runtime: Any) -> None:
    blob = pack_encoder(random_encoder(hidden=128, widths=(128,), intermediates=(512,), densities=(1.0,)))
    assert len(blob) > 10**6
    states, mask = np.ones((2, 5, 128), np.float32), np.ones((2, 5), np.int64)

    def open_and_close(count: int) -> None:
        for _ in range(count):
            run(encoder_session(blob), states=states, mask=mask)

    assert grown_bytes(open_and_close, warm_up=10, count=60) < 20 * len(blob)
