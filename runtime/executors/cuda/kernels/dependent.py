"""Kernels that start while the kernel before them ends: programmatic dependent launch, of GPUs from Hopper on.

A kernel launched so calls `wait_for_kernel_before` before it reads what a kernel before it wrote, or writes anything.
It says by the same call that the next kernel may start as soon as all programs run. What it reads earlier (weights)
must not be the result of the kernel before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from runtime.executors.cuda.kernels.device import capability

ENABLED = True
"""Whether kernels are launched so where the GPU can do it."""


@triton.jit
def wait_for_kernel_before(EARLY: tl.constexpr):
    """Wait until the kernel before has ended and its writes are seen, if this one was launched `EARLY`."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def launch_options(device: torch.device) -> dict[str, bool]:
    """The constant `EARLY` of a kernel, and the option of its launch."""
    return _options(ENABLED and capability(device) >= (9, 0))


def waits() -> dict[str, bool]:
    """The same of a kernel that starts when all before it has ended."""
    return _options(False)


def _options(early: bool) -> dict[str, bool]:
    return {"EARLY": early, "launch_pdl": early}
