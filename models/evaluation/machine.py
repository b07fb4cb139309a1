"""Description of the machine of a measurement, without anything that identifies its owner."""

import functools
import platform
from typing import Final

import cpuinfo
import onnxruntime
import psutil

from sparserve.models.bundle.manifest import Machine
from sparserve.models.cpus import available_cpus

# Instruction sets that determine the speed of matrix kernels, as the Linux kernel spells them.
RELEVANT_ISA: Final = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
_SPELLINGS: Final = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avxvnni": "avx_vnni"}


@functools.cache
def describe_machine() -> Machine:
    """Return CPU, instruction sets, number of available CPUs, memory and versions; no host names and no paths."""
    info = cpuinfo.get_cpu_info()
    flags = {_SPELLINGS.get(flag, flag) for flag in info.get("flags", ())}
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return Machine(
        cpu=" ".join(str(info.get("brand_raw") or info.get("arch_string_raw") or platform.machine()).split()),
        isa=tuple(name for name in RELEVANT_ISA if name in flags),
        cores=available_cpus(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {kernel} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=str(onnxruntime.__version__),
    )
