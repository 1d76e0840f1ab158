"""Quantized engines beside the interpreter's reading of their graphs. Ranks are threads, TensorRT is emulated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

import llmc
from compiler.backend_trt import BuildOptions
from compiler.ir.graph import Graph
from compiler.passes import run_pipeline
from llmc.compiling.calibration import calibration_settings
from llmc.verification.compare import Reference, compare
from llmc.verification.test_cases import TestCase
from llmc.verification.tolerance import logits_tolerance, unrounded
from runtime.engine_dir.engine_folder import open_engine
from runtime.executors.interface import Executor
from runtime.executors.kind import RankToLoad
from runtime.generation.requests import Request
from runtime.load.choice import choose
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import write
from tests.frontends.quantized.writers import Writer
from tests.runtime.executors.tensorrt.thread_ranks import ThreadExecutor, ThreadGroup

EXECUTORS = ("torch", "emulator")
BATCH = 3
LIMITS: Mapping[str, Any] = {"max_batch": BATCH, "max_input": 48, "max_seq": 128}
# Two windows of the text that comes with the compiler: scales must be sensible, not good.
SAMPLES, LENGTH = 2, 48


def _gptq(**keys: Any) -> dict[str, Any]:
    usual = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq"}
    return {"quantization_config": usual | keys}


def _compressed(kind: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False} | weights}
    usual = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": ["lm_head"]}
    return {"quantization_config": usual | {"config_groups": {"group_0": group}, "format": kind}}


IMPORTS: Mapping[str, tuple[Callable[[], Writer], dict[str, Any]]] = {
    "gptq": (lambda: writers.gptq(group=32), _gptq(desc_act=False)),
    "gptq-symmetric": (lambda: writers.gptq(group=32, symmetric=True), _gptq(desc_act=False, sym=True)),
    "gptq-order": (lambda: writers.gptq(group=32, order=True), _gptq(desc_act=True)),
    "awq": (
        lambda: writers.awq(group=32),
        {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}},
    ),
    "pack-quantized": (
        lambda: writers.pack_quantized(group=32),
        _compressed("pack-quantized", type="int", num_bits=4, strategy="group", group_size=32),
    ),
    "float-quantized": (
        lambda: writers.float8(by="channel"),
        _compressed("float-quantized", type="float", num_bits=8, strategy="channel"),
    ),
}
"""How checkpoints are quantized by other tools, by the name that `imported` takes."""


def imported(model: Path, kind: str, folder: Path) -> Path:
    """The checkpoint `model`, rounded to the nearest value and stored in `folder` as another tool does."""
    writer, config = IMPORTS[kind]
    write(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), writer(), folder, **config)
    shutil.copy(model / "tokenizer.json", folder)
    return folder


def quantized_graph(model: Path, passes: str, dtype: str) -> Graph:
    """The graph for one rank. Attention is fused, so that the interpreter rounds where engines do."""
    graph = llmc.lift(model, **LIMITS)
    settings = calibration_settings(samples=SAMPLES, length=LENGTH)
    with settings.source(model, lambda stage, done, total: None).active():
        return run_pipeline(graph, ",".join(filter(None, (f"dtype={dtype}", passes, "fuse-attention")))).graph


def compiled(model: Path, passes: str, dtype: str, place: Path, *, built: bool = True) -> Path:
    """The engine, for torch and for TensorRT, with as few plans as can be.

    Unless they are to be `built`, plans are networks alone: all that the emulator reads, in a tenth of the time.
    """
    build = BuildOptions(batch_sizes=(1, BATCH), prompt_sizes=(16,), capacities=(128,), reuse=built)
    with nullcontext() if built else patch("compiler.backend_trt.build._serialize", _leave_empty):
        return llmc.compile(
            model, place, passes=passes, dtype=dtype, target="tensorrt-rtx", build=build,
            calib_samples=SAMPLES, calib_length=LENGTH, **LIMITS,
        ).path  # fmt: skip


def _leave_empty(trt: Any, builder: Any, network: Any, config: Any, path: Path, *rest: Any) -> None:
    path.touch()


def loaded(engine: Path, name: str) -> Executor:
    """What runs an engine, over all of its ranks."""
    folder = open_engine(engine, verify=False)
    choice, size = choose(folder, name, "cpu"), folder.manifest.mesh.tp
    wanted = RankToLoad(folder, choice.target, device="cpu")
    if size == 1:
        return choice.kind.load(wanted)
    groups = ThreadGroup(size).ranks()
    return ThreadExecutor(
        [choice.kind.load(replace(wanted, rank=rank, group=group)) for rank, group in enumerate(groups)]
    )


@dataclass(frozen=True)
class Agreement:
    """How much of what an engine computed is what the interpreter computes.

    Attributes:
        tokens: how many tokens were compared.
        equal: how many of them are the interpreter's choice.
        ties: of the others, those that it likes as much, but for rounding.
        prompts: how many prompts there were.
        exact: how many of them have equal tokens, and logits that differ by no more than the order of sums explains.
        error: the largest relative error of the logits of a prompt.
        holds: whether rounding explains all that differs.
    """

    tokens: int
    equal: int
    ties: int
    prompts: int
    exact: int
    error: float
    holds: bool


class Oracle:
    """The interpreter's reading of a quantized graph.

    In float32 an engine computes what the interpreter does but for the order of sums. Where activations are quantized,
    a value can thereby get another code, after which a prompt differs by what quantization costs
    (`llmc.verification.tolerance`). That is rare: many short prompts are exact, none if something rounds otherwise.
    """

    def __init__(self, graph: Graph, dtype: str, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """`graph` is for one rank; the prompts are token ids, and each gets `new_tokens` new ones."""
        self._reference = Reference(graph)
        self._requests = tuple(Request(tuple(prompt), new_tokens) for prompt in prompts)
        self._tolerance = logits_tolerance(dtype, int(str(graph.facts["layers"])))
        full = dtype == "float32"
        self._least = 0 if not full else len(prompts) // 4 if unrounded(graph) else len(prompts)

    def compare(self, executor: Executor) -> Agreement:
        """Extend the prompts greedily, more of them than there are rows, and compare each token and its logits."""
        numbers = tuple(range(1, len(self._requests) + 1))
        test_case = TestCase("batch", numbers, self._requests, BATCH)
        runs = compare(test_case, test_case.run(executor), self._reference, self._tolerance, self._reference)
        exact = sum(run.error <= self._tolerance and not run.differences for run in runs)
        return Agreement(
            tokens=sum(len(run.token_ids) for run in runs),
            equal=sum(run.equal for run in runs),
            ties=sum(difference.tie for run in runs for difference in run.differences),
            prompts=len(runs),
            exact=exact,
            error=max(run.error for run in runs),
            holds=exact >= self._least and not any(run.is_off or run.failures for run in runs),
        )
