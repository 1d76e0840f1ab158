"""Runs torchao, which rounds to the nearest value and needs no calibration."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from job import Job, linears
from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_


def config(bits: int, group: int) -> Any:
    """What torchao is to do; its Int4WeightOnlyConfig wants a library (mslk) that the one for any width does not."""
    if bits == 8 and not group:
        return Int8WeightOnlyConfig()
    return IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), PerGroup(group) if group else PerAxis(0))


def main() -> None:
    job = Job.read()
    with job.stage("load"):
        model = job.load()
    chosen = linears(model)
    with job.stage("quantize"):
        quantize_(model, config(job.recipe["bits"], job.recipe["group"]), lambda part, name: name in chosen)
    with job.stage("save"):
        torch.save(model.state_dict(), job.folder / "checkpoint.pt")
    job.measured(version("torchao"))
    dense = {f"{name}.weight": part.weight.dequantize() for name, part in chosen.items()}
    job.save_dense(model.state_dict() | dense)


if __name__ == "__main__":
    main()
