"""What is wrong with a GPU, or with an engine for it, in words."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compiler.errors import TargetError
from compiler.sizes import bytes_text
from runtime.executors.memory import free_bytes
from runtime.executors.rank_checks import why_no_gpu

EMULATE = "run it on the CPU, slowly: --executor emulator"


def cuda_device(name: str) -> torch.device:
    """The GPU of that name: `auto`, `cuda` or `cuda:N`.

    Raises:
        TargetError: if there is none.
    """
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError:
        raise TargetError(f"there is no device {name!r}", hint="use cuda or cuda:N") from None
    if device.type != "cuda":
        raise TargetError(f"a TensorRT engine runs on a CUDA GPU, not on {name}", hint=EMULATE)
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees none on this machine"
        odd = why_no_gpu(odd=True)
        raise TargetError(f"a TensorRT engine runs on a CUDA GPU, and {why}{odd and f': {odd}'}", hint=EMULATE)
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise TargetError(
            f"there is no {name}; torch sees {torch.cuda.device_count()} GPUs", hint="use cuda, or a smaller number"
        )
    return torch.device("cuda", index)


def check_memory(file: Path, size: int, device: torch.device) -> None:
    """TargetError if the GPU has no room for `size` bytes of a file."""
    free = free_bytes(device)
    if size > free:
        raise TargetError(
            f"{file} takes {bytes_text(size)}, but {describe(device)} has {bytes_text(free)} free",
            hint=f"free memory on the GPU, use another (--device cuda:N), or {EMULATE}",
        )


def describe(device: torch.device) -> str:
    """The GPU's name and compute capability."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"the {torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"


def diagnose(trt: ModuleType, runtime: Any, content: Any) -> list[str]:
    """Why TensorRT refuses an engine, such as `unsupported cc`; empty where this version cannot tell.

    Args:
        trt: the package.
        runtime: its `Runtime`.
        content: the engine's bytes, as a buffer.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return []
    _, found = runtime.get_engine_validity(content)
    members = trt.EngineInvalidityDiagnostics.__members__
    return [name.lower().replace("_", " ") for name, member in members.items() if found & int(member)]
