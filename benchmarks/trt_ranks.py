"""TensorRT engines of several GPUs: their tokens beside one rank's, and the speed of 6B and 20B shapes.

Run it with `mpirun -n RANKS python benchmarks/trt_ranks.py` on a host with as many GPUs. For each example checkpoint in
float32 it compares the greedy tokens of tp=RANKS, by TensorRT and by torch, with those of one rank on the CPU. Then it
measures decode steps of GPT-J-6B and GPT-NeoX-20B shapes with made-up float16 weights, and the same collectives alone,
recorded as a CUDA graph. Engines are built here, by the CPU, each rank its own.

`--cpu` does all that with the emulator and torch on CPUs and a small shape, and measures nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch_gpu import GPTJ_6B

import llmc
from compiler.backend_trt import BuildOptions, build_plans
from compiler.errors import PassError
from compiler.ir.constants import needed_constants
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.mesh import rank_graph
from compiler.ir.op import make_op, op_kind
from compiler.ir.rewrite import eliminate_dead
from compiler.ir.step import Step
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.torch_types import to_torch
from compiler.store import write_ranks
from compiler.store.constant_loader import constant_loader
from compiler.store.safetensors_writer import SafetensorsWriter
from compiler.trt_network.library import load_library
from compiler.trt_network.plans import read_plans
from compiler.trt_network.record import NetworkRecord, read_record
from runtime.collectives.communicator import Communicator
from runtime.collectives.nccl_communicator import NcclCommunicator
from runtime.executors.interface import Executor
from runtime.executors.parallel.workers import drive
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.executors.torch.executor import TorchExecutor
from runtime.generation.generate import generate
from runtime.generation.requests import Request
from runtime.processes.world import World, join

MODELS = Path(__file__).parents[1] / "examples" / "models"
NEOX_20B: dict[str, Any] = {
    "model_type": "gpt_neox",
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "rotary_pct": 0.25,
    "vocab_size": 50432,
    "max_position_embeddings": 2048,
    "dtype": "float16",
}
SHAPES: dict[str, dict[str, Any]] = {"GPT-J-6B": GPTJ_6B, "GPT-NeoX-20B": NEOX_20B}
SMALL = GPTJ_6B | {"n_embd": 256, "n_layer": 2, "n_head": 8, "rotary_dim": 16, "vocab_size": 1000}
BATCHES = (1, 8)
CAPACITY, PROMPT, CONTEXT, STEPS = 256, 32, 128, 40
NEW = 24
LIMIT = 600.0  # seconds that a rank may keep the others waiting while it builds
OPTIONS = BuildOptions(batch_sizes=BATCHES, prompt_sizes=(PROMPT,), capacities=(CAPACITY,))


@dataclass
class Rank:
    """This process: the ranks, how it reaches them, where it computes, and how long it has been at it."""

    world: World
    group: Communicator
    device: str
    started: float

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def say(self, text: str) -> None:
        if self.world.rank == 0:
            print(f"[{time.monotonic() - self.started:4.0f} s] {text}", flush=True)

    def first(self, what: str, action: Callable[[], object]) -> None:
        """Do something on rank 0; the others wait."""
        self.world.on_all_ranks(what, action if self.world.rank == 0 else lambda: None, limit=LIMIT)


def optimized(model: Path, mesh: str, dtype: str, *, dummy_weights: bool = False) -> Graph:
    graph = llmc.lift(model, dummy_weights=dummy_weights, max_batch=max(BATCHES), max_input=PROMPT, max_seq=CAPACITY)
    passes = ",".join(filter(None, (f"dtype={dtype}", mesh, "merge-linears,fuse-attention,cleanup")))
    return llmc.optimize(graph, passes).graph


def trt_executor(rank: Rank, graph: Graph, folder: Path) -> TensorRTExecutor:
    """Build this rank's plans of a stored graph, and load them."""
    name = f"rank{rank.world.rank}"
    graph = replace(graph, root=str(folder))

    def built() -> TensorRTExecutor:
        options = replace(OPTIONS, workers=3)
        library, load = load_library("tensorrt-rtx"), constant_loader(graph)
        plans = build_plans(library, graph, load, folder, f"{name}.safetensors", name=name, options=options)
        files = {"plans": plans}
        if not rank.on_gpu:
            return TensorRTExecutor.load(folder, files, emulate=True, group=rank.group)
        return TensorRTExecutor.load(folder, files, device=rank.device, group=rank.group)

    return rank.world.on_all_ranks("building", built, limit=LIMIT)


def tokens(executor: Executor) -> list[list[int]]:
    """What prompts of one to 60 tokens get, more of them than there are rows."""
    prompts = [tuple((7 * i + 13 * k) % 97 + 3 for i in range(1 + 7 * k % 60)) for k in range(2 * max(BATCHES))]
    requests = [Request(prompt, NEW) for prompt in prompts]
    return [result.token_ids for result in generate(executor, requests, batch=max(BATCHES))[0]]


def exactness(rank: Rank, model: Path, mesh: str, folder: Path) -> None:
    """Compare tokens of all ranks with those of one."""
    try:
        graph = optimized(model, mesh, "float32")
    except PassError as error:
        rank.say(f"{model.name}: {error.message}")
        return
    expected: list[list[int]] = []

    def prepare() -> None:
        (folder / "one").mkdir()
        write_ranks(optimized(model, "", "float32"), folder / "one")
        expected.extend(tokens(TorchExecutor.load(folder / "one" / "rank0.ir", device="cpu")))
        write_ranks(graph, folder)

    rank.first("preparing", prepare)
    path = folder / f"rank{rank.world.rank}.ir"
    executors: list[Executor] = [
        trt_executor(rank, read_graph(path), folder),
        rank.world.on_all_ranks("loading", lambda: TorchExecutor.load(path, device=rank.device, group=rank.group)),
    ]
    for executor in executors:

        def compare(everyone: Executor) -> None:
            equal = sum(a == b for a, b in zip(tokens(everyone), expected, strict=True))
            rank.say(f"{model.name} float32 {mesh}: {equal} of {len(expected)} prompts as one rank by {everyone.name}")

        drive(rank.world, executor, compare)


def made_up(graph: Graph, folder: Path, file: str) -> Graph:
    """The graph with weights of noise, stored; other constants are ones."""
    values = {value.name: value for value in needed_constants(graph)}
    noise = torch.randn(2**24).mul_(0.02)
    with SafetensorsWriter(folder / file, {value.name: value.type for value in values.values()}) as writer:
        for value in values.values():
            shape, dtype = value.type.sizes({}), to_torch(value.type.dtype)
            count = math.prod(shape)
            repeated = noise.to(dtype).repeat(-(-count // len(noise)))[:count].view(shape)
            writer.write(value.name, repeated if len(shape) > 1 else torch.ones(shape, dtype=dtype))
    ops = []
    for op in graph.ops:
        stored = [value for value in op.results if value.name in values]
        for value in stored:
            ref = TensorRef(value.type, value.name, file, writer.places[value.name])
            ops.append(make_op(op_kind("const"), (), {"data": ref}, (value.name,), op.origin))
        ops += [] if stored else [op]
    return replace(eliminate_dead(graph.with_ops(tuple(ops), graph.outputs)), root=str(folder))


def milliseconds(rank: Rank, run: Callable[[], object], times: int) -> float:
    """The median time of a run."""
    taken = []
    for _ in range(times):
        torch.cuda.synchronize(rank.device)
        start = time.perf_counter()
        run()
        torch.cuda.synchronize(rank.device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def decode_step(rank: Rank, executor: Executor, batch: int) -> float:
    """Milliseconds of a decode step after `CONTEXT` tokens, which all ranks take side by side."""
    session = rank.world.on_all_ranks("open", lambda: executor.open(batch, CAPACITY), limit=LIMIT)
    one = torch.ones(batch, dtype=torch.int32)
    arguments = Step(one[:, None].clone(), one * CONTEXT, one, torch.zeros(batch, 1, dtype=torch.int32))

    def step() -> torch.Tensor:
        return session.step(arguments)

    assert step().isfinite().all()
    if not rank.on_gpu:
        return math.nan
    milliseconds(rank, step, 5)
    return milliseconds(rank, step, STEPS)


def collectives_alone(rank: Rank, record: NetworkRecord) -> tuple[str, float]:
    """The collectives of a network, one after the other: which they are, and the milliseconds that they take."""
    calls: list[tuple[str, torch.Tensor]] = []
    for layer in record.layers:
        if layer.kind == "DIST_COLLECTIVE":
            given = record.tensors[str(layer.inputs[0])]
            tensor = torch.zeros(given.shape, dtype=given.data_type.torch_dtype, device=rank.device)
            calls.append((json.loads(layer.metadata)["collective"], tensor))
    kinds = sorted({(kind, tensor.nbytes) for kind, tensor in calls})
    counts = {each: sum((kind, tensor.nbytes) == each for kind, tensor in calls) for each in kinds}
    text = ", ".join(f"{count} {kind} of {size:,} bytes" for (kind, size), count in counts.items()) or "none"

    def exchange() -> None:
        for kind, tensor in calls:
            if kind == "all_gather":
                rank.group.all_gather(tensor, 0)
            else:
                rank.group.all_reduce(tensor)

    exchange()
    if not rank.on_gpu or not calls:
        return text, math.nan
    torch.cuda.synchronize(rank.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        exchange()
    milliseconds(rank, graph.replay, 5)
    return text, milliseconds(rank, graph.replay, STEPS)


def speed(rank: Rank, name: str, config: dict[str, Any], mesh: str, folder: Path) -> None:
    """Decode steps of a shape, and the collectives in them."""
    folder.mkdir(exist_ok=True)
    rank.first("config", lambda: (folder / "config.json").write_text(json.dumps(config)))
    whole = optimized(folder, mesh, str(config["dtype"]), dummy_weights=True)
    file = f"rank{rank.world.rank}.safetensors"
    own = rank.world.on_all_ranks(
        "weights", lambda: made_up(rank_graph(whole, rank.world.rank), folder, file), limit=LIMIT
    )
    gigabytes = (folder / file).stat().st_size / 1e9
    rank.say(f"{name} {mesh}: {gigabytes:.1f} GB of weights a rank; building")
    executor = trt_executor(rank, own, folder)
    rank.say(f"{name} {mesh}: loaded")
    plans = {plan.name: plan for plan in read_plans(folder / f"rank{rank.world.rank}.plans.json").plans}
    for batch in BATCHES:
        step = decode_step(rank, executor, batch)
        record = read_record(folder / plans[f"decode-b{batch}-c{CAPACITY}"].network)
        text, alone = collectives_alone(rank, record)
        times = f"{step:.2f} ms a step; the collectives alone {alone:.2f} ms" if rank.on_gpu else "ran, not timed"
        rank.say(f"{name} {mesh}: batch {batch}: {times} ({text})")
    del executor
    gc.collect()
    (folder / file).unlink()
    if rank.on_gpu:
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=sorted(MODELS.glob("*-tiny")))
    parser.add_argument("--shapes", default=",".join(SHAPES), help="which shapes to measure; empty for none")
    parser.add_argument("--embed", default="vocab", choices=("vocab", "hidden", "off"), help="how the head is split")
    parser.add_argument("--no-tokens", action="store_true", help="measure speed only")
    parser.add_argument("--cpu", action="store_true", help="run without GPUs, and measure nothing")
    given = parser.parse_args()
    started = time.monotonic()
    if given.cpu:
        torch.set_num_threads(1)
    with join() as world, torch.inference_mode():
        device = "cpu" if given.cpu else f"cuda:{world.local_rank}"
        if not given.cpu:
            torch.cuda.set_device(device)
        group: Communicator = world.comm
        if not given.cpu and world.size > 1:
            connect = NcclCommunicator.over(torch.device(device))
            group = world.on_all_ranks("connecting", lambda: connect(world.comm))
        rank = Rank(world, group, device, started)
        mesh = f"tp={world.size},embed={given.embed}" if world.size > 1 else ""
        where = torch.cuda.get_device_name(device) if rank.on_gpu else "CPU, emulated"
        rank.say(f"{world.size} ranks, {where}, {load_library('tensorrt-rtx').name}, torch {torch.__version__}")
        own = tempfile.mkdtemp(prefix="trt_ranks.") if world.rank == 0 else None
        folder = Path(world.comm.broadcast_object(own))
        for model in () if given.no_tokens else given.checkpoints:
            rank.first("folder", lambda model=model: (folder / model.name).mkdir())  # type: ignore[misc]
            exactness(rank, model, mesh, folder / model.name)
        shapes = {"small": SMALL} if given.cpu else {name: SHAPES[name] for name in given.shapes.split(",") if name}
        for name, config in shapes.items():
            speed(rank, name, config, mesh, folder / name)
        rank.first("cleaning", lambda: shutil.rmtree(folder))
        rank.say("done")


if __name__ == "__main__":
    main()
