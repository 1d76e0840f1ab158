"""Decode steps and throughput on one GPU: `python benchmarks/gpu.py`, or with `--shapes gptj-6b --recipes fp16,int8`.

For shapes of 6 to 7 billion parameters with random weights: milliseconds a step of each recipe and batch, as a user of
`Engine.generate` sees them, (t(128 new) - t(16 new)) / 112 after prompts of 128 tokens; and tokens a second of many
requests. Beside them stands the bound: the bytes of the weights that a step reads over the bandwidth of reading a large
array, measured in the same run. Tokens of the example checkpoints are compared with those of the CPU first, so that no
fast wrong kernel passes.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from prompts import prompts
from rich.console import Console
from rich.table import Table
from torch import Tensor

import llmc
from compiler.ir.analysis import stored_values
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.torch_types import to_torch
from runtime.executors.cuda.executor import CudaExecutor
from runtime.generation.engine import Engine

MODELS = Path(__file__).parents[1] / "examples" / "models"
SHAPES: dict[str, dict[str, Any]] = {
    "gptj-6b": {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64,
                "vocab_size": 50400, "n_positions": 2048},
    "opt-6.7b": {"model_type": "opt", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "ffn_dim": 16384, "vocab_size": 50272, "max_position_embeddings": 2048},
    "pythia-6.9b": {"model_type": "gpt_neox", "hidden_size": 4096, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "intermediate_size": 16384, "vocab_size": 50432,
                    "max_position_embeddings": 2048, "rotary_pct": 0.25, "use_parallel_residual": True},
    "mpt-7b": {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432,
               "max_seq_len": 2048, "attn_config": {"alibi": True}},
    "gptj-small": {"model_type": "gptj", "n_embd": 1024, "n_layer": 4, "n_head": 4, "rotary_dim": 64,
                   "vocab_size": 50400, "n_positions": 2048},
}  # fmt: skip
RECIPES = {
    "fp16": "", "int8": "quant=int8", "int4": "quant=int4:group=128", "int4-zero": "quant=awq", "fp8": "quant=fp8",
    "w8a8": "quant=int8:act=token", "fp16-kv8": "kv=fp8", "fp8-kv8": "quant=fp8,kv=fp8",
}  # fmt: skip
PROMPT, FEW, MANY = 128, 16, 128


@dataclass
class Cell:
    """A figure of the table: milliseconds a step, or tokens a second."""

    shape: str
    recipe: str
    executor: str
    batch: int
    ms: float | None = None
    bound_ms: float | None = None
    tokens_per_second: float | None = None


def random_constants(graph: Graph, device: torch.device) -> Callable[[Value], Tensor]:
    """Random numbers in place of a graph's weights, made on the device; literals as they are."""
    generator = torch.Generator(device).manual_seed(1)

    def load(value: Value) -> Tensor:
        op = graph.producers[value.name]
        if op.kind.name == "literal":
            tensor: Tensor = evaluator("literal").compute(op.attrs, {})
            return tensor
        if op.kind.name == "reshape":
            return load(op.operands[0]).reshape(op.attrs["shape"])
        sizes = value.type.sizes({})
        if value.type.dtype in (DType.i8, DType.i4):
            most = 127 if value.type.dtype is DType.i8 else 7
            return torch.randint(-most, most + 1, sizes, dtype=torch.int8, device=device, generator=generator)
        noise = torch.randn(sizes, device=device, generator=generator)
        if value.name.rsplit(".", 1)[-1].isdigit() or "scale" in value.name:
            most = 127 if any(user.operands[0].type.dtype is DType.i8 for user in graph.users[value.name]) else 7
            return (0.02 / most * (1 + noise.abs())).to(to_torch(value.type.dtype))
        if len(sizes) == 1:
            noise = 1 + 0.1 * noise if value.name.endswith("weight") else 0.1 * noise
        else:
            noise = 0.02 * noise
        return noise.to(to_torch(value.type.dtype))

    return load


def engine_of(shape: str, recipe: str, folder: Path, batch: int, device: torch.device) -> Engine:
    """An engine of a shape whose weights are random, in memory alone."""
    config = {**SHAPES[shape], "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(action="ignore"):
        passes = ",".join(filter(None, (RECIPES[recipe], "merge-linears=off")))
        dry = llmc.dry_run(folder, folder / "engine", passes=passes, dummy_weights=True, target="torch",
                           max_batch=batch, max_seq=512)  # fmt: skip
    executor = CudaExecutor(dry.graph, device=device, load=random_constants(dry.graph, device))
    return Engine(folder / "engine", dry.manifest, executor, None)


def weight_bytes(executor: CudaExecutor) -> int:
    """The bytes of the weights that a step reads: all but the tables of embeddings."""
    graph = executor.graph
    tables = {op.operands[0].name for op in graph.find("embedding")}
    stored = stored_values(graph)
    read = {value.name: value for kind in ("linear", "dequantize") for op in graph.find(kind) for value in op.operands}
    return sum(
        value.type.nbytes for name, value in read.items()
        if name in stored and (name not in tables or len(graph.users[name]) > 1)
    )  # fmt: skip


def bandwidth() -> float:
    """Bytes a second at which the GPU sums a large array."""
    array = torch.ones(2**14, 2**16, device="cuda")
    best = float("inf")
    for _ in range(6):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        array.sum(1)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return array.nbytes / best


def seconds(engine: Engine, batch: int, new_tokens: int, requests: int | None = None) -> float:
    """The time to extend prompts of 128 tokens, `batch` at once."""
    vocabulary = engine.manifest.vocab_size
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(3, vocabulary, (requests or batch, PROMPT), generator=generator).tolist()
    torch.cuda.synchronize()
    start = time.perf_counter()
    engine.generate(ids, max_new_tokens=new_tokens, ignore_eos=True)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def step_cells(engine: Engine, batches: list[int]) -> Iterator[tuple[int, float]]:
    """Milliseconds a step at each batch."""
    for batch in batches:
        seconds(engine, batch, MANY)
        seconds(engine, batch, MANY)  # what it meets for the second time is captured
        few, many = (
            min(seconds(engine, batch, FEW) for _ in range(2)),
            min(seconds(engine, batch, MANY) for _ in range(2)),
        )
        yield batch, (many - few) / (MANY - FEW) * 1e3


def same_tokens(passes: str, dtype: str, folder: Path) -> str:
    """Of how many prompts of the example checkpoints the GPU's tokens are the CPU's."""
    equal = total = 0
    for model in sorted(MODELS.glob("*-tiny")):
        with warnings.catch_warnings(action="ignore"):
            engine = llmc.compile(model, folder / "tokens", dtype=dtype, passes=passes, target="torch").path
            gpu, cpu = (
                [
                    c.token_ids
                    for c in llmc.load(engine, device=device, executor=executor).generate(prompts(), max_new_tokens=48)
                ]
                for device, executor in (("cuda", "cuda"), ("cpu", "torch"))
            )
        equal += sum(a == b for a, b in zip(gpu, cpu, strict=True))
        total += len(cpu)
    return f"{equal} of {total}"


def profile(engine: Engine, batch: int, steps: int = 20) -> Iterator[str]:
    """Where the time of a step goes in which `batch` sequences decode, kernel by kernel."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    torch.cuda.empty_cache()  # of what earlier sessions held
    engine = Engine(engine.path, engine.manifest, engine.executor, None)  # whose pools go with it
    prompt = list(range(3, 3 + PROMPT))
    requests = [engine.submit(prompt, max_new_tokens=MANY, ignore_eos=True) for _ in range(batch)]
    while any(len(each.tokens) <= PROMPT + 4 for request in requests for each in request.sequences):
        engine.step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        engine.step()
    torch.cuda.synchronize()
    wall = (time.perf_counter() - start) / steps
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            engine.step()
        torch.cuda.synchronize()
    for request in requests:
        engine.cancel(request)
    kernels = [event for event in found.key_averages() if event.device_type == DeviceType.CUDA]
    total = sum(event.self_device_time_total for event in kernels) / steps
    yield f"batch {batch}: {wall * 1e6:.0f} us a step, of which kernels {total:.0f}"
    for event in sorted(kernels, key=lambda each: -each.self_device_time_total)[:14]:
        spent = event.self_device_time_total / steps
        yield f"  {spent:7.0f} us, {event.count / steps:5.1f} x {spent * steps / event.count:6.1f}  {event.key[:90]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="gptj-6b")
    parser.add_argument("--recipes", default="fp16,int8,int4")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--requests", type=int, default=0, help="measure the throughput of so many requests, too")
    parser.add_argument("--at-once", type=int, default=256, help="how many of them run at once")
    parser.add_argument("--tokens", default="", help="compare tokens of these recipes first, such as fp16,int8")
    parser.add_argument("--profile", action="store_true", help="show the kernels of a step")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that torch can use")
    device, console = torch.device("cuda"), Console()
    reads = bandwidth()
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, reads {reads / 1e12:.2f} TB/s")
    batches = [int(size) for size in given.batches.split(",") if size]
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for recipe in filter(None, given.tokens.split(",")):
            for dtype in ("float32", "float16"):
                console.print(f"{recipe}, {dtype}: {same_tokens(RECIPES[recipe], dtype, folder)} prompts as on the CPU")
        for shape in given.shapes.split(","):
            for recipe in given.recipes.split(","):
                began = time.perf_counter()
                try:
                    most = max(batches + ([given.at_once] if given.requests else []))
                    engine = engine_of(shape, recipe, folder, most, device)
                    bound = weight_bytes(engine.executor) / reads * 1e3
                    for line in engine.executor.explain() if given.profile else ():
                        console.print(f"  {line}")
                    for batch, ms in step_cells(engine, batches):
                        cells.append(Cell(shape, recipe, "cuda", batch, ms, bound))
                        console.print(f"{shape} {recipe} batch {batch}: {ms:.2f} ms a step, bound {bound:.2f}")
                    for batch in batches if given.profile else ():
                        for line in profile(engine, batch):
                            console.print(line, highlight=False)
                    if given.requests:
                        seconds(engine, given.at_once, FEW)
                        took = seconds(engine, given.at_once, MANY, given.requests)
                        rate = given.requests * MANY / took
                        cells.append(Cell(shape, recipe, "cuda", given.at_once, tokens_per_second=rate))
                        console.print(f"{shape} {recipe}: {given.requests} requests at {rate:.0f} tokens/s")
                except Exception as error:  # noqa: BLE001 - the other cells are measured all the same
                    console.print_exception()
                    console.print(f"{shape} {recipe}: {type(error).__name__}: {str(error)[:300]}")
                engine = None
                gc.collect()
                torch.cuda.empty_cache()
                console.print(f"  ({time.perf_counter() - began:.0f} s)")
    table = Table("shape", "recipe", "executor", "batch", "ms a step", "bound", "tokens/s")
    for cell in cells:
        table.add_row(cell.shape, cell.recipe, cell.executor, str(cell.batch), *(
            "" if number is None else f"{number:.2f}" for number in (cell.ms, cell.bound_ms, cell.tokens_per_second)
        ))  # fmt: skip
    console.print(table)
    if given.json:
        given.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))


if __name__ == "__main__":
    main()
