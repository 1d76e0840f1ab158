"""The device that a user names."""

from __future__ import annotations

import torch

from compiler.errors import TargetError
from runtime.executors.rank_checks import why_no_gpu


def find_device(name: str) -> torch.device:
    """The device `auto` (a CUDA GPU where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        TargetError: if the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TargetError(f"there is no device {name!r}", hint="use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        why = why_no_gpu()
        raise TargetError(
            f"this machine has no CUDA GPU that torch can use{why and f': {why}'}",
            hint="use --device cpu, or install a torch build with CUDA and a driver that is new enough for it",
        )
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise TargetError(f"there is no {name}; torch sees {count} GPU{'' if count == 1 else 's'}")
    return device
