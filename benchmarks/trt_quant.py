"""Quantized TensorRT engines on a CUDA GPU: `python benchmarks/trt_quant.py [MODEL ...] [--speed]`.

For each checkpoint folder and recipe a float16 engine is built here, by the CPU. Its greedy tokens, its logits and its
perplexity on the text that comes with the compiler are compared with the emulator's; `--cpu` compares the emulator with
the interpreter instead. `--speed` measures decode steps and prompts of a GPT-J-6B shape with made-up weights, quantized
and not, in one run.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from prompts import prompts
from torch_gpu import GPTJ_6B, MODELS
from trt_gpu import BATCHES, CAPACITY, decode_step, prefill

import llmc
from compiler.backend_trt import BuildOptions
from compiler.passes.quant.calibration.text import default_texts
from llmc.evaluation.perplexity import measure_perplexity

RECIPES = (
    "quant=int8",
    "quant=int8:group=128",
    "quant=int4:group=128",
    "quant=awq",
    "quant=gptq",
    "quant=int8:act=token",
    "quant=smoothquant",
    "quant=smoothquant:act=static",
    "quant=fp8",
    "quant=fp8:act=token",
    "kv=int8",
    "kv=fp8",
    "quant=int4:group=64,kv=int8",
)
SPEED_RECIPES = ("", "quant=int8", "quant=awq", "quant=fp8", "quant=smoothquant")
PROMPTS, NEW_TOKENS, WINDOW = 8, 24, 128
SIZES = {"max_batch": 4, "max_input": 256, "max_seq": 512}


def compare(model: Path, recipe: str, folder: Path, executors: tuple[str, str], characters: int) -> str:
    """A line about one engine."""
    engine = llmc.compile(model, folder / "engine", passes=recipe, dtype="float16", target="tensorrt-rtx", **SIZES).path
    texts, ids = prompts()[:PROMPTS], list(range(3, 60))
    loaded = [llmc.load(engine, executor=name) for name in executors]
    found, meant = (
        [c.token_ids for c in e.generate(texts, max_new_tokens=NEW_TOKENS, ignore_eos=True)] for e in loaded
    )
    a, b = (e.logits(ids).double().cpu() for e in loaded)
    equal = sum(x == y for x, y in zip(found, meant, strict=True))
    text = str(default_texts()[0])[:characters]
    ppl = [measure_perplexity(engine, text, window=WINDOW, executor=name).ppl for name in executors]
    return (
        f"{equal} of {PROMPTS} prompts equal, logits {((a - b).norm() / b.norm()).item():.1e}, "
        f"perplexity {ppl[0]:.4f} and {ppl[1]:.4f} ({ppl[0] / ppl[1] - 1:+.3%})"
    )


def speed(recipe: str, layers: int, folder: Path) -> str:
    """A line about the decode steps and the prompts of one engine."""
    (folder / "config.json").write_text(json.dumps(GPTJ_6B | {"n_layer": layers}))
    sizes = BuildOptions(batch_sizes=BATCHES, prompt_sizes=(256,), capacities=(CAPACITY,), reuse=False)
    start = time.perf_counter()
    engine = llmc.compile(
        folder, folder / "engine", passes=recipe, dummy_weights=True, target="tensorrt-rtx", build=sizes,
        max_batch=max(BATCHES), max_input=CAPACITY, max_seq=CAPACITY, calib_samples=8, calib_length=128,
    ).path  # fmt: skip
    built = time.perf_counter() - start
    free = torch.cuda.mem_get_info()[0]
    start = time.perf_counter()
    executor = llmc.load(engine, executor="tensorrt", verify=False).executor
    loaded = time.perf_counter() - start
    steps = " / ".join(f"{decode_step(executor, rows):.2f}" for rows in BATCHES)
    prompt = prefill(executor, CAPACITY)
    taken = free - torch.cuda.mem_get_info()[0]
    disk = sum(path.stat().st_size for path in engine.iterdir())
    shutil.rmtree(engine)
    return (
        f"{steps} ms a step at batch {' / '.join(map(str, BATCHES))}, {CAPACITY} tokens of prompt in {prompt:.1f} ms, "
        f"{taken / 1e9:.1f} GB on the GPU, {disk / 1e9:.1f} GB on disk, "
        f"compiled in {built:.0f} s, loaded in {loaded:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    parser.add_argument("--recipes", help="pipelines, separated by spaces")
    parser.add_argument("--characters", type=int, default=4000, help="how much text the perplexity is of")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--layers", type=int, default=GPTJ_6B["n_layer"], help="with --speed: of the model")
    given = parser.parse_args()
    recipes = given.recipes.split(" ") if given.recipes is not None else SPEED_RECIPES if given.speed else RECIPES
    executors = ("emulator", "interpreter") if given.cpu else ("tensorrt", "emulator")
    for model in [Path("GPT-J-6B shape")] if given.speed else given.models:
        for recipe in recipes:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    if given.speed:
                        line = speed(recipe, given.layers, Path(folder))
                    else:
                        line = compare(model, recipe, Path(folder), executors, given.characters)
                except llmc.LlmcError as error:
                    line = f"error: {error.message}"
            print(f"{model.name} {recipe or 'float16'}: {line}", flush=True)
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
