"""What extends prompts on a GPU, ready to be measured: llmc's executors, and transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from gpu_shapes import RECIPES, SHAPES, engine_of, write_config
from gpu_timing import Load, Run

import llmc
from compiler.backend_trt import BuildOptions
from runtime.generation.engine import Engine


def run_of(engine: Engine) -> Run:
    """What a user of `Engine.generate` does."""

    def run(ids: list[list[int]], new: int) -> None:
        engine.generate(ids, max_new_tokens=new, ignore_eos=True)
        torch.cuda.synchronize()

    return run


@contextmanager
def cuda(shape: str, recipe: str, folder: Path, load: Load) -> Iterator[Engine]:
    """The executor `cuda`; nothing is written to disk."""
    yield engine_of(shape, recipe, folder, load.widest, max(512, load.longest), torch.device("cuda"))


@contextmanager
def tensorrt(shape: str, recipe: str, folder: Path, load: Load) -> Iterator[Engine]:
    """TensorRT plans for the sizes of the load, built here."""
    write_config(shape, folder)
    prompts = {128, load.prompt} - {0}
    sizes = BuildOptions(
        batch_sizes=load.batches, prompt_sizes=tuple(sorted(prompts)), capacities=tuple(sorted({256, load.longest}))
    )
    built = llmc.compile(
        folder, folder / "tensorrt", passes=RECIPES[recipe], dummy_weights=True, target="tensorrt-rtx", build=sizes,
        max_batch=load.widest, max_seq=load.longest, calib_samples=8, calib_length=128,
    )  # fmt: skip
    yield llmc.load(built.path, executor="tensorrt", verify=False)


@contextmanager
def transformers(shape: str, recipe: str, folder: Path, load: Load) -> Iterator[Run]:
    """`generate` of transformers in float16; the other recipes are not measured."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if recipe != "fp16":
        raise ValueError("transformers is measured in float16 only")
    sizes = dict(SHAPES[shape])
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()

    def run(ids: list[list[int]], new: int) -> None:
        given = torch.tensor(ids, device="cuda")
        model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        torch.cuda.synchronize()

    yield run


def of_transformers(load: Load) -> Load:
    """What of a load is measured of transformers: texts of few tokens, since a step takes long, and no throughput."""
    return replace(load, many=40, requests=0)


OURS = {"cuda": cuda, "tensorrt": tensorrt}
"""llmc's executors, by the name that `--executors` takes."""
