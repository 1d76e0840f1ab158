"""Computations whose values can be seen, each under its name in the IR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op
from compiler.ir.packed_step import PackedStep
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.step import Step
from compiler.trt_emulator.context import EmulatedContext
from compiler.trt_emulator.engine import EmulatedEngine
from compiler.trt_emulator.memory import tensor_at
from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import LayerRecord, NetworkRecord, Weight
from llmc.verification.padded import PaddedForm
from runtime.executors.interface import Session, WholeSession
from runtime.executors.interpreter import InterpreterPagedSession, InterpreterStageSession
from runtime.executors.paged import PagedRows, PagedSession, WholePagedSession, blocks_of_rows
from runtime.executors.tensorrt.emulated import EmulatedBackend


class WatchedSession(NamedTuple):
    """A session of a watched interpreter.

    Attributes:
        rows: the session.
        chunk: how many tokens of a row a step may have at most.
    """

    rows: Session
    chunk: int


class _WatchedPools:
    """Pools of blocks that remember their latest step; see `runtime.executors.paged.PagedSession`."""

    latest: PackedStep | None = None

    def __init__(self, pools: PagedSession) -> None:
        self._pools, self.block, self.blocks, self.step_tokens = pools, pools.block, pools.blocks, pools.step_tokens

    def step(self, step: PackedStep) -> Tensor:
        self.latest = step
        return self._pools.step(step)

    def copy_blocks(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        self._pools.copy_blocks(sources, destinations)


class WatchedInterpreter:
    """An interpreter whose values can be seen; constants are among them in the first step.

    Attributes:
        form: how its values are shown.
    """

    name = "interpreter"

    def __init__(self, graph: Graph) -> None:
        self._interpreter = Interpreter(graph, observers=[self._observe])
        self._layout = layout_of(graph)
        self._pools: _WatchedPools | None = None
        self._values: dict[str, Tensor] = {}
        self.form = PaddedForm(graph)

    def open(self, batch: int, capacity: int) -> WatchedSession:
        """See `runtime.executors.interface.Executor.open`. Rows of paged caches own blocks that follow each other."""
        layout = self._layout
        if not isinstance(layout, PagedLayout):
            stage = InterpreterStageSession(self._interpreter, batch, capacity)
            return WatchedSession(WholeSession(stage, batch, capacity), stage.chunk)
        blocks = blocks_of_rows(batch, capacity, layout.block)
        pools = WholePagedSession(InterpreterPagedSession(self._interpreter, blocks), layout.block, blocks)
        self._pools = _WatchedPools(pools)
        return WatchedSession(PagedRows(self._pools, batch, capacity), capacity)

    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run the graph once; returns every value by its name."""
        self._interpreter(inputs)
        return self._take()

    def values_of(self, step: Step) -> Mapping[str, Tensor]:
        """What the latest step of a session computed, by name, and as in a padded step; see `padded.PaddedForm`."""
        return self.form.values(self._take(), step, self._pools.latest if self._pools is not None else None)

    def _take(self) -> Mapping[str, Tensor]:
        values, self._values = self._values, {}
        return values

    def _observe(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        self._values.update(zip((value.name for value in op.results), results, strict=True))


@dataclass(frozen=True)
class PlanRun:
    """A run of an emulated plan.

    Attributes:
        plan: the plan's name.
        inputs: the inputs before it, by name, but for the weights; caches are among them.
        values: every tensor that its layers made, by name.
    """

    plan: str
    inputs: Mapping[str, Tensor]
    values: Mapping[str, Tensor]


class WatchedBackend(EmulatedBackend):
    """The emulator, which shows every run."""

    def __init__(self, folder: Path, weights: str, wanted: Iterable[Weight], seen: Callable[[PlanRun], None]) -> None:
        """Map the weights; the arguments and errors are those of `EmulatedBackend`, with `seen` called after a run."""
        super().__init__(folder, weights, wanted, "cpu")
        self._seen = seen
        self._names: dict[EmulatedEngine, str] = {}

    def load(self, files: PlanFiles, record: NetworkRecord) -> EmulatedEngine:
        """See `Backend.load`."""
        engine = super().load(files, record)
        self._names[engine] = files.name
        return engine

    def new_context(self, engine: EmulatedEngine, *, eager: bool) -> EmulatedContext:
        """See `Backend.new_context`."""
        return _WatchedContext(engine, self._names[engine], self._seen)


class _WatchedContext(EmulatedContext):
    def __init__(self, engine: EmulatedEngine, plan: str, seen: Callable[[PlanRun], None]) -> None:
        super().__init__(engine)
        self._plan, self._seen = plan, seen
        self._values: dict[str, Tensor] = {}
        self.observe = self._keep

    def execute_async_v3(self, stream_handle: int) -> bool:
        inputs = {name: self._input(name) for name in self.engine.record.inputs if self._is_step_input(name)}
        self._values = {}
        done = super().execute_async_v3(stream_handle)
        if done:
            self._seen(PlanRun(self._plan, inputs, self._values))
        return done

    def _is_step_input(self, name: str) -> bool:
        return name not in self.engine.record.weights and self.get_tensor_address(name) != 0

    def _input(self, name: str) -> Tensor:
        dtype = self.engine.record.tensors[name].dtype
        return tensor_at(self.get_tensor_address(name), dtype, self.get_tensor_shape(name)).clone()

    def _keep(self, layer: LayerRecord, tensors: Sequence[Tensor]) -> None:
        self._values.update((name, tensor.clone()) for name, tensor in zip(layer.outputs, tensors, strict=True))
