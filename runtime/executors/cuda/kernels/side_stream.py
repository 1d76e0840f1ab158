"""A stream beside the current one, for kernels that need not wait for each other."""

from __future__ import annotations

from collections.abc import Callable

import torch


class SideStream:
    """The stream of each device, made when it is first needed."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def run(self, device: torch.device, first: Callable[[], None], second: Callable[[], None]) -> None:
        """Launch kernels that may run at a time; what was launched before ends before them, what comes later waits.

        Args:
            device: where they run; on a CPU, they run one after the other.
            first: launches kernels in the current stream.
            second: launches others in the side stream; they must be such as wait (`dependent.waits`).
        """
        if device.type != "cuda":
            first()
            second()
            return
        current = torch.cuda.current_stream(device)
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        side = self._streams[device]
        side.wait_stream(current)
        first()
        with torch.cuda.stream(side):
            second()
        current.wait_stream(side)
