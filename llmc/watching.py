"""Executors whose values can be seen, each under its name in the IR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from compiler.ir.graph import Graph
from compiler.ir.interpreter import Interpreter
from compiler.ir.op import Op
from compiler.trt.emulator import EmulatedContext
from compiler.trt.record import LayerRecord
from runtime.executor import Executor
from runtime.interpreter_executor import InterpreterSession
from runtime.tensorrt_executor import TensorRTExecutor
from runtime.tensorrt_executor.emulated import EmulatedBackend
from runtime.tensorrt_executor.session import TensorRTSession


class Watched(Executor, Protocol):
    """An executor whose values can be seen."""

    def take_values(self) -> Mapping[str, Tensor]:
        """What was computed since the last call, by name. Values that the executor does not have are absent."""
        ...


class WatchedInterpreter:
    """An interpreter whose values can be seen; constants are among them in the first step. See `Watched`."""

    name = "interpreter"

    def __init__(self, graph: Graph) -> None:
        self._interpreter = Interpreter(graph, observers=[self._observe])
        self._values: dict[str, Tensor] = {}

    def open(self, batch: int, capacity: int) -> InterpreterSession:
        """See `runtime.executor.Executor.open`."""
        return InterpreterSession(self._interpreter, batch, capacity)

    def take_values(self) -> Mapping[str, Tensor]:
        """See `Watched.take_values`."""
        values, self._values = self._values, {}
        return values

    def _observe(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        self._values.update(zip((value.name for value in op.results), results, strict=True))


class WatchedEmulator:
    """The emulator, on the network of an engine, whose values can be seen. See `Watched`."""

    name = "emulator"

    def __init__(self, folder: Path, network: str, graph: Graph) -> None:
        """Load a network.

        Args:
            folder: the engine directory.
            network: the file of the network.
            graph: the graph that the network was made from.

        Raises:
            LlmcError: if it cannot be read, or the emulator lacks one of its layers.
        """
        backend = _WatchedBackend(folder, network, self._observe)
        self._executor = TensorRTExecutor(backend, name=self.name, file=network)
        self._wanted = set(graph.values)
        self._roles = {role: value.name for role, value in graph.outputs.items() if role not in graph.states()}
        self._values: dict[str, Tensor] = {}
        self._repeated = False

    def open(self, batch: int, capacity: int) -> TensorRTSession:
        """See `runtime.executor.Executor.open`."""
        return self._executor.open(batch, capacity)

    def take_values(self) -> Mapping[str, Tensor]:
        """See `Watched.take_values`; nothing if the network ran several times, each time on a part of the batch."""
        values = {} if self._repeated else self._values
        self._values, self._repeated = {}, False
        return values

    def _observe(self, layer: LayerRecord, tensors: Sequence[Tensor]) -> None:
        for output, tensor in zip(layer.outputs, tensors, strict=True):
            name = self._roles.get(output, output)
            if name in self._wanted:
                self._repeated = self._repeated or name in self._values
                self._values[name] = tensor.clone()


class _WatchedBackend(EmulatedBackend):
    """A backend whose contexts call `observe` after each layer."""

    def __init__(self, folder: Path, network: str, observe: _Observe) -> None:
        super().__init__(folder, network, "cpu")
        self._observe = observe

    def new_context(self, profile: int, *, one_width: bool) -> EmulatedContext:
        context = self.engine.create_execution_context()
        context.observe = self._observe
        return context


class _Observe(Protocol):
    def __call__(self, layer: LayerRecord, tensors: Sequence[Tensor], /) -> None: ...
