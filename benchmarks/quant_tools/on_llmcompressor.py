"""Runs llm-compressor; `checkpoint` is in the format compressed-tensors."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from compressed_tensors.compressors import decompress_module
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from job import Job, linears
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

IGNORED = ["lm_head", "embed_out"]


def modifiers(recipe: dict[str, Any]) -> list[Any]:
    """What llm-compressor is to do."""
    algorithm = recipe["algorithm"]
    settings = {"config_groups": {"group_0": scheme(recipe)}, "ignore": IGNORED}
    if algorithm == "gptq":
        order = "static" if recipe["order"] else None
        return [GPTQModifier(**settings, actorder=order, dampening_frac=recipe["damping"])]
    if algorithm == "awq":
        return [AWQModifier(), QuantizationModifier(**settings)]
    if algorithm == "smoothquant":
        return [SmoothQuantModifier(smoothing_strength=recipe["alpha"]), QuantizationModifier(**settings)]
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
    with job.stage("load"):
        model = job.load()
        data = Dataset.from_dict({"input_ids": job.windows, "attention_mask": [[1] * len(w) for w in job.windows]})
    with job.stage("quantize"):
        oneshot(
            model=model,
            dataset=data,
            recipe=modifiers(dict(job.recipe)),
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
