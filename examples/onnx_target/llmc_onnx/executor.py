"""Running a rank's model with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from compiler.errors import EngineError, RequestError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.chunks import chunk_length
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.step import Step
from compiler.ir.step_interface import StepInterface
from llmc_onnx.names import next_state
from runtime.executors.interface import RowCopies, Session, WholeSession
from runtime.executors.memory import memory_for
from runtime.executors.rank_checks import check_linear, check_size, check_whole

_FIRST = 64
"""How many tokens the caches of a row hold at first."""


class OnnxStageSession:
    """A batch in one stage, whose caches are made anew by each step. See `interface.StageSession`."""

    def __init__(self, executor: OnnxExecutor, batch: int, capacity: int) -> None:
        self._executor, self._interface = executor, executor.interface
        self._batch, self._capacity = batch, capacity
        self.chunk = chunk_length(executor.graph, batch, capacity, holds_scores=lambda op: True)
        self._held = min(capacity, _FIRST)
        self._state = self._caches()

    def buffers(self, rows: int, length: int, positions: int = 1) -> dict[str, Tensor]:
        """See `StageSession.buffers`."""
        return self._interface.buffers(rows, length, positions)

    def step(self, rows: slice, step: Step, received: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `StageSession.step`; RequestError for a sequence that has become longer than the capacity."""
        self._hold(max(step.length, int((step.past_len + step.new_len).max())))
        state = {name: LINEAR.view(cache, rows) for name, cache in self._state.items()}
        with memory_for(f"a step of {step.batch} x {step.length} tokens"):
            outputs = self._executor.run({**self._interface.named(step), **state, **received})
        for name, cache in self._state.items():
            new = outputs[next_state(name, self._executor.graph)]
            if new.shape == cache.shape:
                self._state[name] = new
            else:
                LINEAR.view(cache, rows).copy_(new)
        return {role: outputs[role] for role in self._interface.results}

    def _hold(self, length: int) -> None:
        """Make the caches so large that a row holds so many tokens: what a step costs follows what they can hold."""
        if length <= self._held:
            return
        if length > self._capacity:
            raise RequestError(f"a sequence grew to {length} tokens; the caches hold {self._capacity}")
        before, kept = self._state, self._held
        self._held = min(self._capacity, max(2 * kept, length))
        self._state = self._caches()
        for name, cache in before.items():
            LINEAR.view(self._state[name], slice(None), kept).copy_(cache)

    def _caches(self) -> dict[str, Tensor]:
        with memory_for(f"the caches of {self._batch} sequences of {self._held} tokens"):
            return self._interface.empty_caches(self._batch, self._held)

    def copy_rows(self, copies: RowCopies) -> None:
        """See `StageSession.copy_rows`."""
        copies.apply(LINEAR, self._state.values())


class OnnxExecutor:
    """Runs the model of a rank. See `interface.Executor` and `interface.StageExecutor`.

    Attributes:
        graph: the graph that the model was made from.
        interface: what it takes and gives.
    """

    name = "onnx"

    def __init__(self, graph: Graph, model: Path) -> None:
        """Load a model.

        Args:
            graph: the graph that it was made from.
            model: the file; its weights lie beside it.

        Raises:
            EngineError: if onnxruntime cannot load it.
        """
        self.graph, self.interface = graph, StepInterface.of(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised, too
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime has a class for each cause, and no common one
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} cannot load {model}: {error}",
                hint="compile the engine again, or pip install -U onnxruntime",
            ) from None
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {value.name for value in self._session.get_inputs()}

    @classmethod
    def load(cls, folder: Path, files: Mapping[str, str]) -> OnnxExecutor:
        """The executor of one rank of an engine; EngineError if its files cannot be read."""
        return cls(read_graph(folder / files["graph"]), folder / files["model"])

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One run of the model: its outputs by name."""
        feeds = {name: tensor.contiguous().numpy() for name, tensor in inputs.items() if name in self._inputs}
        found = self._session.run(self._outputs, feeds)
        return {name: torch.from_numpy(array) for name, array in zip(self._outputs, found, strict=True)}

    def open(self, batch: int, capacity: int) -> Session:
        """See `Executor.open`; EngineError if the graph is one of several stages."""
        check_whole(self.interface, self.graph)
        return WholeSession(self.open_stage(batch, capacity), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> OnnxStageSession:
        """See `StageExecutor.open_stage`."""
        check_linear(self.interface, self.graph)
        check_size(self.graph, batch, capacity)
        return OnnxStageSession(self, batch, capacity)
