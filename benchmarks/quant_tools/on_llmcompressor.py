"""Runs llm-compressor; `checkpoint` is in the format compressed-tensors."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from compressed_tensors.compressors import decompress_module
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from job import Job, linears
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

IGNORED = ["lm_head", "embed_out"]
# By family: what is scaled down, and the linears over it that are scaled up; llm-compressor knows other families.
SMOOTHED = {
    "opt": {
        "re:.*self_attn_layer_norm$": ["re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$"],
        "re:.*v_proj$": ["re:.*out_proj$"],
        "re:.*layers.*final_layer_norm$": ["re:.*fc1$"],
        "re:.*fc1$": ["re:.*fc2$"],  # over a ReLU, through which a factor passes
    },
    "gpt_neox": {
        "re:.*input_layernorm$": ["re:.*query_key_value$"],
        "re:.*post_attention_layernorm$": ["re:.*dense_h_to_4h$"],
    },
    "gptj": {
        "re:.*ln_1$": ["re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$", "re:.*fc_in$"],
        "re:.*v_proj$": ["re:.*out_proj$"],
    },
    "mpt": {"re:.*norm_1$": ["re:.*Wqkv$"], "re:.*norm_2$": ["re:.*up_proj$"]},
}


def modifiers(recipe: dict[str, Any], family: str) -> list[Any]:
    """What llm-compressor is to do."""
    algorithm = recipe["algorithm"]
    settings = {"config_groups": {"group_0": scheme(recipe)}, "ignore": IGNORED}
    if algorithm == "gptq":
        order = "static" if recipe["order"] else None
        return [GPTQModifier(**settings, actorder=order, dampening_frac=recipe["damping"])]
    if algorithm == "awq":
        pairs = [AWQMapping(smooth, balanced) for smooth, balanced in SMOOTHED[family].items()]
        return [AWQModifier(mappings=pairs), QuantizationModifier(**settings)]
    if algorithm == "smoothquant":
        found = SMOOTHED[family].items()
        norms = [[linears, norm] for norm, linears in found if "proj" not in norm and "fc" not in norm]
        smooth = SmoothQuantModifier(smoothing_strength=recipe["alpha"], mappings=norms)
        return [smooth, QuantizationModifier(**settings)]
    return [QuantizationModifier(**settings)]


def scheme(recipe: dict[str, Any]) -> QuantizationScheme:
    """The formats of weights and activations."""
    kind = "float" if recipe["algorithm"] == "fp8" else "int"
    group = recipe.get("group", 0)
    strategy = recipe.get("weights") or ("group" if group else "channel")
    weights = QuantizationArgs(
        num_bits=recipe["bits"], type=kind, strategy=strategy, group_size=group or None, symmetric=True
    )
    inputs = None
    if recipe.get("act"):
        dynamic = recipe["act"] == "token"
        inputs = QuantizationArgs(num_bits=8, type=kind, strategy="token" if dynamic else "tensor", dynamic=dynamic)
    return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)


def main() -> None:
    job = Job.read()
    torch.Tensor.pin_memory = lambda tensor: tensor  # AWQModifier pins memory, which fails without a GPU
    with job.stage("load"):
        model = job.load()
        data = Dataset.from_dict({"input_ids": job.windows, "attention_mask": [[1] * len(w) for w in job.windows]})
    with job.stage("quantize"):
        oneshot(
            model=model,
            dataset=data,
            recipe=modifiers(dict(job.recipe), model.config.model_type),
            max_seq_length=len(job.windows[0]),
            num_calibration_samples=len(job.windows),
            shuffle_calibration_samples=False,
        )
    with job.stage("save"):
        model.save_pretrained(job.checkpoint, save_compressed=True)
    job.measured(version("llmcompressor"))
    for part in linears(model).values():
        decompress_module(part)
    job.save_dense(model.state_dict())


if __name__ == "__main__":
    main()
