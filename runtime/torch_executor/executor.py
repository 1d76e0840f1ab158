"""Loading a rank's graph and weights, and running its steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

import runtime.torch_executor.rules  # noqa: F401 - registers the rules
from compiler.errors import EngineError, RequestError, TargetError
from compiler.ir.evaluators import evaluator
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.tensor_data import view_bytes
from runtime.torch_executor.kernels import plan_writes
from runtime.torch_executor.linear import Linear, pack_linear
from runtime.torch_executor.lowering import Program, held_dtype, lower

# Caches are shown to the graph up to the longest sequence, rounded up to this, so that views are rarely made anew.
_CAPACITY_STEP = 64


class TorchExecutor:
    """Runs a rank's graph with torch, on the CPU or a CUDA GPU.

    Attributes:
        graph: the step graph, its constants in the engine's files.
        device: where it runs.
        program: the graph as lowered.
    """

    name = "torch"

    def __init__(self, graph: Graph, *, device: str = "auto", rows: int | None = None) -> None:
        """Lower a graph and load its weights.

        Args:
            graph: a step graph whose constants are stored tensors and literals.
            device: `auto` (a CUDA GPU where there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.
            rows: how many sequences a step usually has, to choose kernels; default: the most the graph allows.

        Raises:
            TargetError: if the device is not there, or an op has no rule.
            EngineError: if the weights cannot be read.
        """
        self.graph = graph
        self.device = _device(device)
        on_cpu = self.device.type == "cpu"
        rows = rows or graph.dims["B"].max
        # A kernel packs with one thread, so weights are packed side by side.
        with ThreadPoolExecutor(torch.get_num_threads()) as workers:

            def pack(weight: Tensor, bias: Tensor | None) -> Future[Linear]:
                return workers.submit(pack_linear, weight, bias, rows)

            self.program: Program = lower(
                graph, self.device, constant_loader(graph), pack if on_cpu else self._plain_linear, widened=on_cpu
            )

    @classmethod
    def load(cls, path: Path, *, device: str = "auto", rows: int | None = None) -> TorchExecutor:
        """Load the graph file of a rank; its weights lie beside it. Raises as the constructor does."""
        return cls(read_graph(path), device=device, rows=rows)

    def open(self, batch: int, capacity: int) -> TorchSession:
        """Allocate caches for `batch` sequences of at most `capacity` tokens each.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
        """
        for what, symbol, size in (("sequences", "B", batch), ("tokens a sequence", "C", capacity)):
            limit = self.graph.dims[symbol].max
            if not 1 <= size <= limit:
                raise RequestError(f"{size} {what} were asked for; the engine is built for 1 to {limit}")
        return TorchSession(self, batch, capacity)

    def _plain_linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        on_device = weight.to(self.device)
        bias_there = None if bias is None else bias.to(self.device)
        return lambda x: torch.nn.functional.linear(x, on_device, bias_there)


class TorchSession:
    """Sequences in progress on a `TorchExecutor`; see `runtime.executor.Session`."""

    def __init__(self, executor: TorchExecutor, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self._executor = executor
        self._run = executor.program.run
        sizes = {"B": batch, "C": capacity}
        widened = executor.device.type == "cpu"
        try:
            self._caches = [
                torch.zeros(value.type.sizes(sizes), dtype=held_dtype(value, widened=widened), device=executor.device)
                for value in executor.graph.inputs
                if value.name in executor.graph.outputs
            ]
        except (torch.OutOfMemoryError, RuntimeError) as error:
            raise RequestError(
                f"there is no memory for the caches of {batch} sequences of {capacity} tokens: {error}",
                hint="ask for fewer sequences at a time, or build the engine with a smaller --max-seq",
            ) from error
        self._shown = 0
        self._views: list[Tensor] = []

    @torch.inference_mode()
    def step(self, token_ids: Tensor, past_len: Tensor, new_len: Tensor, logit_pos: Tensor) -> Tensor:
        """See `runtime.executor.Session.step`."""
        device = self._executor.device
        past, new = past_len.tolist(), new_len.tolist()
        self._show(max(start + count for start, count in zip(past, new, strict=True)))
        writes = plan_writes(past, new, token_ids.shape[1], device)
        inputs = [tensor.to(device) for tensor in (token_ids, past_len, new_len, logit_pos)]
        return self._run(*inputs, *self._views, writes)[0]

    def _show(self, length: int) -> None:
        """Show the graph so much of the caches as sequences of `length` tokens need."""
        if length > self.capacity:
            raise RequestError(f"a sequence grew to {length} tokens; the caches hold {self.capacity}")
        shown = min(-(-length // _CAPACITY_STEP) * _CAPACITY_STEP, self.capacity)
        if shown != self._shown:
            self._views = [cache.narrow(2, 0, shown) for cache in self._caches]
            self._shown = shown


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TargetError(f"there is no device {name!r}", hint="use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TargetError(
            "this machine has no CUDA GPU that torch can use",
            hint="use --device cpu, or install a torch build with CUDA and a driver",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TargetError(f"there is no {name}; torch sees {torch.cuda.device_count()} GPUs")
    return device


def constant_loader(graph: Graph) -> Callable[[Value], Tensor]:
    """A function that gives the tensor of a constant; stored ones are views of the mapped files."""
    files: dict[str, Tensor] = {}

    def mapped(file: str) -> Tensor:
        if file not in files:
            path = Path(graph.root) / file
            try:
                files[file] = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
            except (OSError, RuntimeError) as error:
                raise EngineError(f"cannot read the weights {path}: {error}") from error
        return files[file]

    def load(value: Value) -> Tensor:
        op = graph.producers[value.name]
        if op.kind.name == "const":
            ref = op.attrs["data"]
            whole = mapped(ref.file)
            if ref.offset + ref.type.nbytes > whole.numel():
                raise EngineError(
                    f"{Path(graph.root) / ref.file} ends inside tensor {ref.name!r}",
                    hint="the file is truncated; compile again",
                )
            return view_bytes(whole[ref.offset : ref.offset + ref.type.nbytes], ref.type)
        if not op.operands:
            tensor: Tensor = evaluator(op.kind.name).compute(op.attrs, {})
            return tensor
        raise EngineError(
            f"%{value.name} is a constant that was not computed when the engine was built",
            hint="give the graph to compiler.backend_torch.emit_torch first",
        )

    return load
