"""Plans run by the emulator, on the CPU: slow, and wherever there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from compiler.errors import TargetError
from compiler.trt_emulator.context import EmulatedContext
from compiler.trt_emulator.engine import EmulatedEngine
from compiler.trt_emulator.recorded_constants import recorded_constants
from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import LayerRecord, NetworkRecord, Weight
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.tensorrt.ranks import EmulatedRanks
from runtime.executors.tensorrt.streams import HostStream
from runtime.executors.tensorrt.weight_memory import map_weights

Observe = Callable[[LayerRecord, Sequence[Tensor]], None]
"""Called after each layer of each run with the tensors that it made; they are valid during the call only."""


class EmulatedBackend:
    """Plans that the emulator runs. See `runtime.executors.tensorrt.interface.Backend`."""

    def __init__(
        self,
        folder: Path,
        weights: str,
        wanted: Iterable[Weight],
        device: str,
        observe: Observe | None = None,
        group: Communicator | None = None,
    ) -> None:
        """Map the weights.

        Args:
            folder: the engine directory.
            weights: the weights' file.
            wanted: the weights that the plans read.
            device: `auto` or `cpu`.
            observe: sees what every layer makes.
            group: the ranks that compute together with this one; None if there are no others.

        Raises:
            TargetError: for another device.
            EngineError: if the weights cannot be read.
        """
        if device != "auto" and torch.device(device).type != "cpu":
            raise TargetError(f"the emulator runs on the CPU, not on {device}", hint="leave out --device")
        self._messages: list[str] = []
        self._observe = observe
        self._ranks = EmulatedRanks(group or SingleRank())
        self.weights = map_weights(folder / weights, wanted)
        self.stream = HostStream()

    def load(self, files: PlanFiles, record: NetworkRecord) -> EmulatedEngine:
        """See `Backend.load`; the network is all that is read of the plan."""
        return EmulatedEngine(record, recorded_constants(record, lambda: self.weights), self._messages.append)

    def new_context(self, engine: EmulatedEngine, *, eager: bool) -> EmulatedContext:
        """See `Backend.new_context`."""
        context = engine.create_execution_context()
        context.observe = self._observe
        context.set_communicator(self._ranks)
        return context

    def context_bytes(self, engine: EmulatedEngine, profile: int) -> int:
        """See `Backend.context_bytes`."""
        return engine.get_device_memory_size_for_profile_v2(profile)

    def check_memory(self, cache_bytes: int, context_bytes: int) -> None:
        """The CPU's memory is not known in advance: what does not fit fails when it is allocated."""

    def take_messages(self) -> str:
        """See `Backend.take_messages`."""
        messages = "; ".join(self._messages)
        self._messages.clear()
        return messages
