"""Description of the machine of a measurement, without anything that identifies its owner."""

import functools
import platform
from collections.abc import Mapping
from typing import Any, Final

import cpuinfo
import onnxruntime
import psutil

from sparserve.models.bundle.manifest import Machine
from sparserve.models.cpus import RELEVANT_ISA, available_cpus, instruction_sets

# How py-cpuinfo spells some of them.
_SPELLINGS: Final = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avxvnni": "avx_vnni"}


@functools.cache
def describe_machine() -> Machine:
    """Return CPU, instruction sets, number of available CPUs, memory and versions; no host names and no paths."""
    info = cpuinfo.get_cpu_info()
    listed = instruction_sets()
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return Machine(
        cpu=" ".join(str(info.get("brand_raw") or info.get("arch_string_raw") or platform.machine()).split()),
        isa=_detected(info) if listed is None else listed,
        cores=available_cpus(),
        memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {kernel} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=str(onnxruntime.__version__),
    )


def _detected(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the instruction sets where the system does not list them."""
    flags = {_SPELLINGS.get(flag, flag) for flag in info.get("flags", ())}
    return tuple(name for name in RELEVANT_ISA if name in flags)
