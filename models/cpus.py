"""The CPUs that this process may use, and their instruction sets."""

import os
from pathlib import Path
from typing import Final

CGROUP_V2_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
CPU_DESCRIPTION: Final = Path("/proc/cpuinfo")

# Instruction sets that determine the speed of matrix kernels, as the Linux kernel spells them.
RELEVANT_ISA: Final = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def available_cpus() -> int:
    """Whole CPUs that this process may use: its affinity, cut by the container's CPU quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if CGROUP_V2_QUOTA.exists():
            quota, period = CGROUP_V2_QUOTA.read_text().split()
        else:
            quota, period = CGROUP_V1_QUOTA.read_text().strip(), CGROUP_V1_PERIOD.read_text().strip()
        cpus = float(quota) / float(period)
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return max(affinity, 1)
    return max(min(affinity, int(cpus)), 1) if cpus > 0 else max(affinity, 1)


def instruction_sets(path: Path = CPU_DESCRIPTION) -> tuple[str, ...] | None:
    """Return the `RELEVANT_ISA` of this machine, in that order; None where the system does not list them."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, ARM
            flags = frozenset(value.split())
            return tuple(isa for isa in RELEVANT_ISA if isa in flags)
    return None
