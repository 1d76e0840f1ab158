"""Compiles the kernels of attention and norms for a GPU without having one: `python -m ... MAJOR MINOR`.

Calls are made on the CPU, and each kernel is compiled instead of run. It says which kernels there were.
"""

import sys
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget

from runtime.executors.cuda.kernels import attention, dependent, norms, tiles
from runtime.executors.cuda.kernels.norms import Affine, add_norm, add_norm_of_rows
from runtime.executors.cuda.kernels.precompile import _NoDriver
from tests.runtime.executors.cuda.attention_cases import Case

HALF, BRAIN, INT8, FP8 = torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn
CASES: list[dict[str, Any]] = [
    {"width": 256, "dtype": HALF, "k_pool": HALF, "v_pool": HALF, "rotary": 64, "interleaved": True},
    {"width": 80, "dtype": BRAIN, "k_pool": INT8, "v_pool": INT8, "rotary": 20, "zeros": True, "alibi": True},
    {"width": 128, "heads": 4, "kv_heads": 1, "dtype": HALF, "k_pool": FP8, "v_pool": FP8, "window": 9, "block": 48},
]


class Compiling:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, 0

    def __getitem__(self, grid):
        return lambda *args, **options: self.compile(grid, args, options)

    def compile(self, grid, args, options):
        types = [each.dtype if isinstance(each, torch.Tensor) else each for each in args]
        self.kernel.warmup(*types, grid=grid, **options)
        self.compiled += 1


def main(capability):
    """Compile for a compute capability."""
    triton.runtime.driver.set_active(_NoDriver(GPUTarget("cuda", 10 * capability[0] + capability[1], 32)))
    places = [(attention, "decode"), (attention, "prefill"), (attention, "write_cache"), (norms, "_add_norm")]
    kernels = [Compiling(getattr(module, name)) for module, name in places]
    for (module, name), kernel in zip(places, kernels, strict=True):
        setattr(module, name, kernel)
    with (
        patch.object(attention, "capability", lambda device: capability),
        patch.object(dependent, "capability", lambda device: capability),
        patch.object(tiles, "multiprocessors", lambda device: 132),
    ):
        for options in CASES:
            Case([(200, 1), (0, 3)], **options).computed()
        x, rows = torch.zeros(2, 100, dtype=HALF), torch.zeros(2, dtype=torch.int32)
        add_norm(x, [x], [x[0]], [Affine(x[0], x[0]), Affine(x[0])], 1e-5, "layer_norm", sum_dtype=HALF)
        add_norm_of_rows(x, [x[None].float()], [], [Affine(None)], 1e-5, "rms_norm", sum_dtype=BRAIN, rows=rows)
    print(*(kernel.compiled for kernel in kernels))  # noqa: T201


if __name__ == "__main__":
    main((int(sys.argv[1]), int(sys.argv[2])))
