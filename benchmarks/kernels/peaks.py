"""Peak rates of one thread of this machine, measured in the run that is compared with them."""

import ctypes
import os
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch

SOURCE: Final = Path(__file__).with_name("byte_products.cpp")
CSRC: Final = Path(__file__).parents[2] / "kernels" / "csrc"
BYTE_ROUNDS: Final = 2_000_000
LARGEST_VECTOR_BYTES: Final = 64
REPEATS: Final = 20


def seconds_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def peak_rates(isa: str) -> dict[str, float]:
    """Measure multiply-adds per second, of floats and of bytes with the kernels of `isa`, and bytes copied per second.

    The rate of bytes is missing if there is no compiler, and for portable kernels.
    """
    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    flops = max(2**30 / seconds_of(lambda: a @ a) for _ in range(60))
    memory = np.zeros(2**27, np.uint8)
    copied = max(2 * memory.nbytes / seconds_of(memory.copy) for _ in range(5))
    rates = {"fp32_multiply_adds_per_second": flops, "copy_bytes_per_second": copied}
    bytes_rate = byte_products_per_second(isa)
    return rates if bytes_rate is None else {**rates, "byte_multiply_adds_per_second": bytes_rate}


def byte_products_per_second(isa: str) -> float | None:
    """Return the multiply-adds per second of byte dot products in registers; None if the kernel cannot be compiled."""
    if isa == "portable":
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "byte_products.so"
        if not _compile(isa, library):
            return None
        products = ctypes.CDLL(str(library)).sparserve_byte_products
        products.restype, products.argtypes = ctypes.c_uint64, (ctypes.c_uint64, ctypes.c_void_p)
        sink = (ctypes.c_uint8 * LARGEST_VECTOR_BYTES)()

        def rate() -> float:
            begin = time.perf_counter()
            count: int = products(BYTE_ROUNDS, sink)
            return count / (time.perf_counter() - begin)

        return max(rate() for _ in range(REPEATS))


def _compile(isa: str, library: Path) -> bool:
    """Compile the kernel with the flags of an instruction set; return False if that fails."""
    lines = (CSRC / "isa" / "flags.txt").read_text(encoding="utf-8").splitlines()
    flags = {name: words.split() for name, _, words in (line.partition(":") for line in lines if line[:1] != "#")}
    compiler = os.environ.get("CXX") or (sysconfig.get_config_var("CXX") or "c++").split()[0]
    vnni = ["-DSPARSERVE_VNNI"] if isa.endswith("-vnni") else []
    command = [
        *(compiler, *flags["common"], *flags.get(isa.replace("-", "_"), []), *vnni, "-shared", f"-I{CSRC}"),
        *(f'-DSPARSERVE_SIMD="simd/{isa.removesuffix("-vnni")}.h"', str(SOURCE), "-o", str(library)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return False
    if done.returncode:
        print(f"the peak of byte products is not measured: {done.stderr[-300:]}")
    return done.returncode == 0
