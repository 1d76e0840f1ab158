"""Runs AutoAWQ, whose checkpoints are asymmetric: of the layout `gemm`."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from awq import AutoAWQForCausalLM
from awq.modules.linear import WQLinear_GEMM
from awq.utils.packing_utils import dequantize_gemm
from job import Job
from transformers import AutoTokenizer


def weight(part: WQLinear_GEMM) -> torch.Tensor:
    """A weight `[N, K]` as AutoAWQ expands it."""
    return dequantize_gemm(part.qweight, part.qzeros, part.scales, part.w_bit, part.group_size).T


def forget_new_key(path: Path) -> None:
    """Drop the key `dtype`, which this transformers copies unread beside its own `torch_dtype`."""
    config = json.loads(path.read_text())
    config.pop("dtype", None)
    path.write_text(json.dumps(config))


def main() -> None:
    job = Job.read()
    with job.stage("load"):
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        model = AutoAWQForCausalLM.from_pretrained(str(job.model), device_map="cpu", torch_dtype=torch.float32)
    with job.stage("quantize"):
        model.quantize(
            tokenizer,
            {"zero_point": True, "q_group_size": job.recipe["group"], "w_bit": job.recipe["bits"], "version": "GEMM"},
            calib_data=job.windows,
            max_calib_samples=len(job.windows),
            max_calib_seq_len=len(job.windows[0]),
        )
    with job.stage("save"):
        model.save_quantized(str(job.checkpoint))
    job.measured(version("autoawq"))
    forget_new_key(job.checkpoint / "config.json")
    parts = {name: part for name, part in model.model.named_modules() if isinstance(part, WQLinear_GEMM)}
    job.save_dense(model.model.state_dict() | {f"{name}.weight": weight(part) for name, part in parts.items()})


if __name__ == "__main__":
    main()
