"""Computations whose values can be seen, each under its name in the IR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op
from compiler.trt_emulator.context import EmulatedContext
from compiler.trt_emulator.engine import EmulatedEngine
from compiler.trt_emulator.memory import tensor_at
from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import LayerRecord, NetworkRecord, Weight
from runtime.executors.interface import WholeSession
from runtime.executors.interpreter import InterpreterStageSession
from runtime.executors.tensorrt.emulated import EmulatedBackend


class WatchedInterpreter:
    """An interpreter whose values can be seen; constants are among them in the first step."""

    name = "interpreter"

    def __init__(self, graph: Graph) -> None:
        self._interpreter = Interpreter(graph, observers=[self._observe])
        self._values: dict[str, Tensor] = {}

    def open(self, batch: int, capacity: int) -> WholeSession[InterpreterStageSession]:
        """See `runtime.executors.interface.Executor.open`."""
        return WholeSession(InterpreterStageSession(self._interpreter, batch, capacity), batch, capacity)

    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run the graph once; returns every value by its name."""
        self._interpreter(inputs)
        return self.take_values()

    def take_values(self) -> Mapping[str, Tensor]:
        """What was computed since the last call, by name."""
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
