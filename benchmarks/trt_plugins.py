"""TensorRT plans that call llmc's plug-ins, on a CUDA GPU: their tokens beside torch's, and the speed of a 6B shape.

Run it with `python benchmarks/trt_plugins.py [--layers N] [--recipes int4,int8] [--without N] [--only tokens|speed]`.
Everything is compiled here: bundled checkpoints by several recipes, whose tokens are compared with those of the torch
executor, and a GPT-J-6B shape of `--layers` layers with made-up weights, whose decode steps are timed as users of
`Engine.generate` see them, (t(128 new) - t(16 new)) / 112 after prompts of 128 tokens. `--own` adds the CUDA executor,
which launches the same kernels by itself, `--without N` plans of N layers with plug-ins and without, which takes
minutes with 4 bits. Results are printed as they come; what fails is said, and the rest goes on. What would begin after
`--budget` seconds is left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prompts import prompts
from torch_gpu import GPTJ_6B, MODELS

import llmc
from compiler.backend_trt import BuildOptions, build_plans
from compiler.ir.dtypes import DType
from compiler.ir.graph import Graph
from compiler.ir.op import Op, Value, make_op, op_kind
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.store.constant_loader import constant_loader
from compiler.store.ranks import stored_ranks
from compiler.store.safetensors_writer import SafetensorsWriter
from compiler.trt_network.library import load_library
from compiler.trt_network.plans import read_plans
from runtime.executors.cuda.executor import CudaExecutor
from runtime.executors.cuda.plugin_kernels import LAUNCHERS
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.generation.engine import Engine

TOKENS = (
    ("gptj-tiny", "quant=int4:group=32", "float16", "products+attention"),
    ("mpt-tiny", "quant=int8,kv=int8", "float16", "products+attention"),
    ("gptneox-tiny", "kv=fp8", "float32", "attention"),
    ("gptneox-tiny", "quant=int4:group=32", "float16", "products"),
    ("opt-tiny", "quant=fp8:act=token", "float16", "products+rounded"),
    ("mpt-tiny", "quant=int8", "float16", "products+dense"),
    ("gptj-tiny", "quant=int4:group=64", "bfloat16", "products"),
    ("opt-tiny", "quant=fp8:act=off", "float16", "products"),
    ("mpt-tiny", "quant=int8:act=token", "float16", "products+rounded"),
    ("gptneox-tiny", "quant=int4:group=32", "float32", "products"),
    ("gptj-tiny", "", "float16", "dense"),
)
"""Checkpoints, their recipes and types, and the values of the option `plugins`."""
RECIPES = {
    "int4": ("quant=int4:group=128", "products"), "int8": ("quant=int8", "products"), "fp16": ("", "dense"),
    "fp8w": ("quant=fp8:act=off", "products"), "fp8": ("quant=fp8:act=token", "products+rounded"),
    "w8a8": ("quant=int8:act=token", "products+rounded"),
    "int4+attention": ("quant=int4:group=128", "products+attention"),
    "int8+attention": ("quant=int8", "products+attention"), "fp16+attention": ("", "dense+attention"),
    "w8a8+attention": ("quant=int8:act=token", "products+rounded+attention"),
}  # fmt: skip
"""Passes, and the values of the option `plugins`."""
BATCHES = (1, 8, 64)
PROMPT, FEW, MANY = 128, 16, 128
CAPACITY = 256
_KERNELS = 12
START = time.perf_counter()


def say(text: str) -> None:
    """A line, with the time since the start."""
    print(f"[{time.perf_counter() - START:5.0f} s] {text}", flush=True)


def attempt(what: str, budget: float, run: Callable[[], object]) -> None:
    """Run it if there is time, and say what failed if something does."""
    if time.perf_counter() - START > budget:
        say(f"left out, for want of time: {what}")
        return
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


def profile(name: str, engine: Engine, batch: int) -> None:
    """The kernels that take most of the time of steps."""
    seconds(engine, batch, FEW)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        seconds(engine, batch, MANY)
    totals: dict[str, list[float]] = {}
    for event in found.events() or ():
        totals.setdefault(event.name, []).append(event.device_time)
    for kernel, times in sorted(totals.items(), key=lambda item: -sum(item[1]))[:_KERNELS]:
        share = sum(times) / MANY / 1e3
        say(f"{name}, batch {batch}: {share:.3f} ms a step, {len(times) / MANY:.1f} calls of {kernel[:100]}")


def steps(name: str, engine: Engine, batches: Sequence[int], *, profiled: bool) -> None:
    """Milliseconds a step of an engine."""
    for batch in batches:
        start = time.perf_counter()
        seconds(engine, batch, 4)
        first = time.perf_counter() - start
        seconds(engine, batch, FEW)
        few, many = (min(seconds(engine, batch, new) for _ in range(2)) for new in (FEW, MANY))
        step = (many - few) / (MANY - FEW) * 1e3
        say(f"{name}, batch {batch}: {step:.2f} ms a step (first run {first:.1f} s)")
        if profiled:
            profile(name, engine, batch)


def made_up(graph: Graph, folder: Path) -> Graph:
    """The graph of a rank over a file of made-up weights, which is written here: a block of noise, again and again."""
    (rank,) = stored_ranks(graph)
    consts = rank.find("const")
    file = folder / "rank0.safetensors"
    with SafetensorsWriter(file, {op.name: op.result.type for op in consts}) as writer:
        places = writer.places
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2**23, generator=generator)
    blocks: dict[str, memoryview] = {}
    with file.open("r+b") as out:
        for op in consts:
            kind = f"{op.result.type.dtype} {'scale' in op.name or op.name[-1:].isdigit()} {op.result.type.rank == 1}"
            if kind not in blocks:
                blocks[kind] = memoryview(_noise(op.result, noise).numpy().tobytes())
            out.seek(places[op.name])
            left = op.result.type.nbytes
            while left:
                left -= out.write(blocks[kind][:left])
    ops = [_placed(op, file.name, places[op.name]) if op.kind.name == "const" else op for op in rank.ops]
    return replace(rank.with_ops(tuple(ops), rank.outputs), root=str(folder))


def _placed(op: Op, file: str, offset: int) -> Op:
    ref = TensorRef(op.result.type, op.name, file, offset)
    return make_op(op_kind("const"), (), {"data": ref}, (op.name,), op.origin)


def _noise(value: Value, noise: torch.Tensor) -> torch.Tensor:
    """The bytes of numbers such as a constant may hold."""
    dtype = value.type.dtype
    if dtype in (DType.i4, DType.i8):
        return (noise * 40).clamp(-127, 127).to(torch.int8).view(torch.uint8)
    if "scale" in value.name or value.name[-1:].isdigit():
        noise = 0.003 * (1 + noise.abs())
    elif value.type.rank == 1:
        noise = 1 + 0.1 * noise if value.name.endswith("weight") else 0.1 * noise
    elif dtype is not DType.f8e4m3:
        noise = 0.02 * noise
    return noise.to(to_torch(dtype)).view(torch.uint8)


def speed(config: dict[str, Any], recipe: str, layers: int, plugins: str | None, given: argparse.Namespace) -> None:
    """The shape's steps by TensorRT and, if wanted, by the executor that has the same kernels."""
    batches = [int(batch) for batch in given.batches.split(",")]
    name = f"{recipe}, {layers} layers, {f'plugins={plugins}' if plugins else 'without plug-ins'}"
    options = BuildOptions(
        batch_sizes=BATCHES, prompt_sizes=(PROMPT,), capacities=(CAPACITY,), reuse=False,
        plugins=tuple(plugins.split("+")) if plugins else (),  # type: ignore[arg-type]
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps(config | {"n_layer": layers}))
        start = time.perf_counter()
        dry = llmc.dry_run(
            folder, folder / "engine", passes=RECIPES[recipe][0], dummy_weights=True, target="tensorrt-rtx",
            build=options, max_batch=max(BATCHES), max_input=PROMPT, max_seq=CAPACITY,
        )  # fmt: skip
        graph = made_up(dry.graph, folder)
        written = time.perf_counter() - start
        load = constant_loader(graph)
        library = load_library("tensorrt-rtx")
        plans = build_plans(library, graph, load, folder, "rank0.safetensors", options=options)
        built = time.perf_counter() - start - written
        listed = read_plans(folder / plans)
        size = sum((folder / plan.engine).stat().st_size for plan in listed.plans)
        say(f"{name}: weights written in {written:.0f} s, {len(listed.plans)} plans ({size:,} bytes) in {built:.1f} s")
        start = time.perf_counter()
        emulate = given.executor == "emulator"
        loaded = TensorRTExecutor.load(folder, {"plans": plans}, emulate=emulate, launchers=LAUNCHERS)
        say(f"{name}: loaded in {time.perf_counter() - start:.1f} s")
        steps(f"{name}, TensorRT", Engine(folder, dry.manifest, loaded, None), batches, profiled=given.profile)
        del loaded
        gc.collect()
        if given.own and plugins is not None:
            cuda = CudaExecutor(graph, device=torch.device("cuda"), load=load)
            own = Engine(folder, dry.manifest, cuda, None)
            steps(f"{name}, the CUDA executor", own, batches, profiled=given.profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tokens", "speed"))
    parser.add_argument("--prompts", type=int, default=16, help="how many texts are continued to compare tokens")
    parser.add_argument("--layers", type=int, default=GPTJ_6B["n_layer"])
    parser.add_argument("--recipes", default="int4", help=f"of {', '.join(RECIPES)}, with commas")
    parser.add_argument("--without", type=int, default=0, metavar="N", help="also N layers with and without plug-ins")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="whose steps are timed, with commas")
    parser.add_argument("--profile", action="store_true", help="list the kernels that take most of the time")
    parser.add_argument("--own", action="store_true", help="time the CUDA executor, too")
    parser.add_argument("--cases", type=int, default=3, help=f"of the {len(TOKENS)} cases whose tokens are compared")
    parser.add_argument("--budget", type=float, default=200.0, metavar="SECONDS")
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
        for case in TOKENS[: given.cases] if given.only != "speed" else ():
            run = partial(tokens, *case, folder, given.executor, given.prompts)
            attempt(" ".join(case), given.budget, run)
        for recipe in given.recipes.split(",") if given.only != "tokens" else ():
            plugins = RECIPES[recipe][1]
            sizes = [(given.layers, plugins)]
            sizes += [(given.without, plugins), (given.without, None)] if given.without else []
            for layers, wanted in sizes:
                run = partial(speed, config, recipe, layers, wanted, given)
                attempt(f"{recipe}, {layers} layers", given.budget, run)


if __name__ == "__main__":
    main()
