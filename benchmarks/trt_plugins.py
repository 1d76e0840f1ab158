"""TensorRT plans that call llmc's plug-ins, on a CUDA GPU: their tokens beside torch's, and the speed of a 6B shape.

Run it with `python benchmarks/trt_plugins.py [--layers N] [--recipes int4,int8] [--without N] [--only tokens|speed]`.
Everything is compiled here: bundled checkpoints by several recipes, whose tokens are compared with those of the torch
executor, and a GPT-J-6B shape of `--layers` layers with made-up weights, whose decode steps are timed as users of
`Engine.generate` see them, (t(128 new) - t(16 new)) / 112 after prompts of 128 tokens, beside those of the CUDA
executor, which launches the same kernels by itself. `--without N` also builds plans of N layers without plug-ins, which
takes minutes with 4 bits. Results are printed as they come; what fails is said, and the rest goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from prompts import prompts
from torch_gpu import GPTJ_6B, MODELS

import llmc
from compiler.backend_trt import BuildOptions
from runtime.generation.engine import Engine

TOKENS = (
    ("gptneox-tiny", "quant=int4:group=32", "float16", "products"),
    ("gptj-tiny", "quant=int4:group=64", "bfloat16", "products+dense"),
    ("mpt-tiny", "quant=int8", "float16", "products"),
    ("opt-tiny", "quant=fp8:act=off", "float16", "products"),
    ("gptneox-tiny", "quant=int4:group=32", "float32", "products"),
    ("gptj-tiny", "", "float16", "dense"),
)
"""Checkpoints, their recipes and types, and the values of the option `plugins`."""
RECIPES = {"int4": "quant=int4:group=128", "int8": "quant=int8", "fp8": "quant=fp8:act=off", "fp16": ""}
BATCHES = (1, 8, 64)
PROMPT, FEW, MANY = 128, 16, 128
CAPACITY = 256
START = time.perf_counter()


def say(text: str) -> None:
    """A line, with the time since the start."""
    print(f"[{time.perf_counter() - START:5.0f} s] {text}", flush=True)


def attempt(what: str, run: Callable[[], object]) -> None:
    """Run it, and say what failed if something does."""
    try:
        run()
    except Exception as error:  # noqa: BLE001  # the other measurements are worth having
        say(f"FAILED: {what}: {type(error).__name__}: {str(error)[:800]}")
        traceback.print_exc(limit=-4)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tokens(model: str, passes: str, dtype: str, plugins: str, folder: Path, executor: str, count: int) -> None:
    """The tokens of an engine beside torch's."""
    start = time.perf_counter()
    target = f"tensorrt-rtx:plugins={plugins}"
    path = llmc.compile(
        MODELS / model, folder / "tokens", passes=passes, dtype=dtype, target=target, max_seq=256, max_batch=8
    ).path
    compiled = time.perf_counter() - start
    ours, torchs = (llmc.load(path, executor=name, verify=False) for name in (executor, "torch"))
    texts = prompts()[:count]
    found, expected = (
        [c.token_ids for c in engine.generate(texts, max_new_tokens=32, ignore_eos=True)] for engine in (ours, torchs)
    )
    equal = sum(a == b for a, b in zip(found, expected, strict=True))
    ids = list(range(3, 103))
    a, b = (engine.logits(ids).double().cpu() for engine in (ours, torchs))
    error = ((a - b).norm() / b.norm()).item()
    case = f"{model} {passes or 'float'} {dtype} plugins={plugins}"
    say(f"{case}: {equal} of {count} prompts equal, logits differ by {error:.1e}, compiled in {compiled:.1f} s")


def wait() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(engine: Engine, batch: int, new: int) -> float:
    """The time to extend `batch` prompts by some tokens."""
    wait()
    start = time.perf_counter()
    given = [[(7 * row + place) % 1000 + 1 for place in range(PROMPT)] for row in range(batch)]
    engine.generate(given, max_new_tokens=new, ignore_eos=True)
    wait()
    return time.perf_counter() - start


def steps(name: str, path: Path, executor: str, batches: tuple[int, ...]) -> None:
    """Milliseconds a step of an engine."""
    start = time.perf_counter()
    engine = llmc.load(path, executor=executor, verify=False)
    say(f"{name}, executor {executor}: loaded in {time.perf_counter() - start:.1f} s")
    for batch in batches:
        start = time.perf_counter()
        seconds(engine, batch, 4)
        first = time.perf_counter() - start
        few = min(seconds(engine, batch, FEW) for _ in range(2))
        many = min(seconds(engine, batch, MANY) for _ in range(2))
        step = (many - few) / (MANY - FEW) * 1e3
        say(f"{name}, executor {executor}, batch {batch}: {step:.2f} ms a step (first run {first:.1f} s)")


def compiled_shape(config: dict[str, Any], recipe: str, layers: int, folder: Path, plugins: str | None) -> Path:
    """An engine of the shape with made-up weights."""
    model = folder / f"shape-{layers}"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(config | {"n_layer": layers}))
    build = BuildOptions(batch_sizes=BATCHES, prompt_sizes=(PROMPT,), capacities=(CAPACITY,))
    if plugins:
        build = replace(build, plugins=tuple(plugins.split("+")))  # type: ignore[arg-type]
    start = time.perf_counter()
    made = llmc.compile(
        model, folder / "speed", dummy_weights=True, target="tensorrt-rtx", build=build, passes=RECIPES[recipe],
        max_batch=max(BATCHES), max_input=PROMPT, max_seq=CAPACITY,
    )  # fmt: skip
    times = ", ".join(f"{name} {taken:.1f} s" for name, taken in made.timings.items() if taken > 0.5)
    with_ = f"plugins={plugins}" if plugins else "without plug-ins"
    say(f"{recipe}, {layers} layers, {with_}: compiled in {time.perf_counter() - start:.0f} s ({times})")
    return made.path


def speed(config: dict[str, Any], recipe: str, layers: int, folder: Path, executor: str, plugins: str | None) -> None:
    """The shape's steps by TensorRT and, where plug-ins are called, by the executor that has the same kernels."""
    path = compiled_shape(config, recipe, layers, folder, plugins)
    name = f"{recipe}, {layers} layers, {'plug-ins' if plugins else 'no plug-ins'}"
    steps(name, path, executor, BATCHES)
    if plugins and executor != "emulator":
        attempt("the CUDA executor", lambda: steps(name, path, "cuda", BATCHES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tokens", "speed"))
    parser.add_argument("--prompts", type=int, default=16, help="how many texts are continued to compare tokens")
    parser.add_argument("--layers", type=int, default=GPTJ_6B["n_layer"])
    parser.add_argument("--recipes", default="int4", help=f"of {', '.join(RECIPES)}, with commas")
    parser.add_argument("--without", type=int, default=0, metavar="N", help="also N layers with and without plug-ins")
    parser.add_argument("--width", type=int, default=GPTJ_6B["n_embd"], help="of the shape")
    parser.add_argument("--executor", default="tensorrt", help="the emulator tries this script where there is no GPU")
    given = parser.parse_args()
    if given.executor != "emulator" and not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that torch can use")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    say(f"{gpu}, torch {torch.__version__}, triton {__import__('triton').__version__}")
    config = GPTJ_6B | {"n_embd": given.width}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for case in TOKENS if given.only != "speed" else ():
            attempt(" ".join(case), lambda case=case: tokens(*case, folder, given.executor, given.prompts))  # type: ignore[misc]
        for recipe in given.recipes.split(",") if given.only != "tokens" else ():
            plugins = "products+dense" if recipe == "fp16" else "products"
            sizes = [(given.layers, plugins)]
            sizes += [(given.without, plugins), (given.without, None)] if given.without else []
            for layers, wanted in sizes:
                attempt(recipe, lambda *a, r=recipe, n=layers, p=wanted: speed(config, r, n, folder, given.executor, p))


if __name__ == "__main__":
    main()
