"""Rehearses steps of an executor for a GPU without having one, and compiles what they call: `python -m ... FOLDER`.

It says which kernels there were, and which of them failed.
"""

import io
import json
import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.cuda.kernels import precompile
from runtime.executors.cuda.kernels.precompile import _NoDriver, recording
from runtime.executors.cuda.session import CudaPagedSession
from runtime.executors.cuda.step_graphs import StepGraphs
from tests.runtime.executors.cuda.test_executor import made


def main(folder: Path) -> None:
    """Rehearse a model whose files are put into the folder."""
    triton.runtime.driver.set_active(_NoDriver(GPUTarget("cuda", 90, 32)))
    executor = CudaExecutor(made("gptj", "quant=int8", folder), device=torch.device("cpu"))
    session = CudaPagedSession(executor, 2)
    graphs = session._graphs
    assert isinstance(graphs, StepGraphs)
    with torch.inference_mode(), recording() as kernels:
        graphs.rehearse([1, 2], session._logits)
    print(*sorted({each.kernel for each in kernels}))  # noqa: T201
    others = [each for each in kernels if each.kernel not in precompile.KERNELS]
    sys.stdin = io.StringIO(json.dumps({"capability": (9, 0), "jobs": others[:2]}))
    precompile.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
