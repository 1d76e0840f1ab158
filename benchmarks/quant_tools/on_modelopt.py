"""Runs NVIDIA ModelOpt; `checkpoint` is its Hugging Face export."""

from __future__ import annotations

import copy
from importlib.metadata import version
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from job import Job, linears
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.export.unified_export_hf import requantize_resmooth_fused_llm_layers

CONFIGS = {
    "gptq": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "awq": "INT4_AWQ_CFG",
    "int4": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "int8": "INT8_WEIGHT_ONLY_CFG",
    "smoothquant": "INT8_SMOOTHQUANT_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "fp8 token": "FP8_PER_CHANNEL_PER_TOKEN_CFG",
}


def config(recipe: dict[str, Any]) -> dict[str, Any]:
    """What ModelOpt is to do."""
    algorithm = recipe["algorithm"]
    kind = "fp8 token" if algorithm == "fp8" and recipe["act"] == "token" else algorithm
    found: dict[str, Any] = copy.deepcopy(getattr(mtq, CONFIGS[kind]))
    if algorithm == "smoothquant":
        found["algorithm"] = {"method": "smoothquant", "alpha": recipe["alpha"]}
    if algorithm == "gptq":
        found["algorithm"] = {"method": "gptq", "perc_damp": recipe["damping"]}
    if algorithm == "awq":
        found["algorithm"] = {"method": recipe.get("method", "awq_full")}
    return found


def main() -> None:
    job = Job.read()
    with job.stage("load"):
        model = job.load()
    batches = torch.tensor(job.windows).split(8)

    def run_all(model: Any) -> None:
        for ids in batches:
            model(ids, use_cache=False)

    with job.stage("quantize"), torch.no_grad():
        mtq.quantize(model, config(dict(job.recipe)), forward_loop=run_all)
    with job.unmeasured():  # the export begins with this, which changes weights, and ends with no model to run
        requantize_resmooth_fused_llm_layers(model)
        weights = {f"{name}.weight": part.weight_quantizer(part.weight) for name, part in linears(model).items()}
        job.save_dense(model.state_dict() | weights)
    with job.stage("save"):
        export_hf_checkpoint(model, export_dir=job.checkpoint)
    job.measured(version("nvidia-modelopt"))


if __name__ == "__main__":
    main()
