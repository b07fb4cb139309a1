"""Training precision, fp32 or bf16, and the attention implementation that suits it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparserve.models.distributed import uses_gpu
from sparserve.models.recipes.schema import Training


def has_bf16() -> bool:
    """Return True if this machine has bf16 instructions. Emulated bf16 is slower than fp32 and does not count."""
    if uses_gpu():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def trains_in_bf16(training: Training) -> bool:
    """Return True if forward and backward passes run in bf16 on this machine. Weights stay fp32."""
    return training.precision == "bf16" or (training.precision == "auto" and has_bf16())


@contextmanager
def fast_attention(model: nn.Module, *, bf16: bool) -> Iterator[None]:
    """Use eager attention within the context where fused attention is slow: in bf16 on a CPU.

    There the fused backward pass takes 4 to 27 times as long as the eager one (32 rows of 12 to 120 tokens, 12 heads of
    32; torch 2.13, Zen 4).
    """
    network: Any = model
    before = network.config._attn_implementation
    slow = bf16 and not uses_gpu() and before == "sdpa"
    if slow:
        network.set_attn_implementation("eager")
    try:
        yield
    finally:
        if slow:
            network.set_attn_implementation(before)
