"""The device that a user names."""

from __future__ import annotations

import torch

from compiler.errors import TargetError


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
        raise TargetError(
            "this machine has no CUDA GPU that torch can use",
            hint="use --device cpu, or install a torch build with CUDA and a driver",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TargetError(f"there is no {name}; torch sees {torch.cuda.device_count()} GPUs")
    return device
