"""Runs HQQ, which searches zero points without calibration; its weights are asymmetric."""

from __future__ import annotations

from importlib.metadata import version

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from job import Job, linears


def main() -> None:
    job = Job.read()
    with job.stage("load"):
        model = job.load()
    group = job.recipe["group"] or None
    with job.stage("quantize"):
        config = BaseQuantizeConfig(nbits=job.recipe["bits"], group_size=group, axis=1)
        for name, part in linears(model).items():
            replaced = HQQLinear(part, config, compute_dtype=model.dtype, device="cpu", del_orig=True)
            model.set_submodule(name, replaced)
    with job.stage("save"):
        torch.save(model.state_dict(), job.folder / "checkpoint.pt")
    job.measured(version("hqq"))
    quantized = {name: part for name, part in model.named_modules() if isinstance(part, HQQLinear)}
    dense = {f"{name}.weight": part.dequantize() for name, part in quantized.items()}
    biases = {f"{name}.bias": part.bias for name, part in quantized.items() if part.bias is not None}
    job.save_dense(model.state_dict() | dense | biases)


if __name__ == "__main__":
    main()
