"""Engines run by the emulator, on the CPU: slow, and wherever there is no GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from compiler.errors import TargetError
from compiler.trt.emulator.engine import EmulatedEngine, open_emulated
from runtime.tensorrt_executor.interface import TensorContext
from runtime.tensorrt_executor.streams import HostStream


class EmulatedBackend:
    """An engine that the emulator runs. See `runtime.tensorrt_executor.interface.Backend`."""

    def __init__(self, folder: Path, network: str, device: str) -> None:
        """Open the network of an engine.

        Args:
            folder: the engine directory.
            network: the file of its network.
            device: `auto` or `cpu`.

        Raises:
            TargetError: for another device.
            EngineError: if the network cannot be read.
        """
        if device != "auto" and torch.device(device).type != "cpu":
            raise TargetError(f"the emulator runs on the CPU, not on {device}", hint="leave out --device")
        self._messages: list[str] = []
        self.engine: EmulatedEngine = open_emulated(folder, network, self._messages.append)
        self.stream = HostStream()

    def new_context(self, profile: int, *, one_width: bool) -> TensorContext:
        """See `Backend.new_context`."""
        return self.engine.create_execution_context()

    def check_room(self, cache_bytes: int) -> None:
        """The CPU's memory is not known in advance: what does not fit fails when it is allocated."""

    def take_messages(self) -> str:
        """See `Backend.take_messages`."""
        messages = "; ".join(self._messages)
        self._messages.clear()
        return messages
