"""Runs GPTQModel: GPTQ, and AWQ."""

from __future__ import annotations

import os
from typing import Any

from job import Job

os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # the fewest that it takes; read when it is imported

import gptqmodel
import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
from gptqmodel.quantization.config import AWQConfig, GPTQConfig


def config(recipe: dict[str, Any]) -> Any:
    """What GPTQModel is to do. Its own order of columns, within groups and of groups, is `act_group_aware`."""
    shape = {"bits": recipe["bits"], "group_size": recipe["group"], "sym": not recipe.get("zero", False)}
    if recipe["algorithm"] == "awq":
        return AWQConfig(**shape, offload_to_disk=False)
    return GPTQConfig(
        **shape,
        desc_act=recipe["order"] == "columns",
        act_group_aware=recipe["order"] == "groups",
        damp_percent=recipe["damping"],
        offload_to_disk=False,
    )


def weight(part: Any) -> torch.Tensor:
    """A weight `[N, K]` as GPTQModel expands it."""
    if hasattr(part, "dequantize_weight"):
        return part.dequantize_weight().T
    return dequantize_gemm(part.qweight, part.qzeros, part.scales, part.bits, part.group_size).T


def main() -> None:
    job = Job.read()
    with job.stage("load"):
        model = GPTQModel.load(str(job.model), config(dict(job.recipe)), device="cpu", dtype=job.dtype)
    with job.stage("quantize"):
        model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in job.windows], batch_size=8)
    with job.stage("save"):
        model.save(str(job.checkpoint))
    job.measured(gptqmodel.__version__)
    loaded = GPTQModel.load(str(job.checkpoint), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    parts = {name: part for name, part in loaded.named_modules() if hasattr(part, "qweight")}
    job.save_dense(loaded.state_dict() | {f"{name}.weight": weight(part) for name, part in parts.items()})


if __name__ == "__main__":
    main()
