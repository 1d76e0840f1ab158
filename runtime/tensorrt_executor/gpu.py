"""Engines run by TensorRT, on a CUDA GPU."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import torch

from compiler.errors import EngineError, RequestError, TargetError
from compiler.trt.library import Library
from runtime.sizes import bytes_text
from runtime.tensorrt_executor.gpu_checks import EMULATE, check_memory, describe, diagnose, free_bytes
from runtime.tensorrt_executor.kernel_cache import KernelCache
from runtime.tensorrt_executor.messages import message_log
from runtime.tensorrt_executor.streams import CudaStream


class GpuBackend:
    """An engine on a GPU. See `runtime.tensorrt_executor.interface.Backend`."""

    def __init__(
        self,
        library: Library,
        plan: Path,
        device: torch.device,
        *,
        digest: str | None = None,
        capabilities: tuple[str, ...] = (),
    ) -> None:
        """Load an engine.

        Args:
            library: the package that built it.
            plan: the engine's file.
            device: the GPU.
            digest: the file's sha256, to keep compiled kernels for the next time; None keeps none.
            capabilities: compute capabilities that the engine was built for, such as `8.9`, if known.

        Raises:
            TargetError: if the GPU has too little memory, or cannot run the engine.
            EngineError: if the file cannot be read.
        """
        self._trt = library.trt
        self._log = message_log(library.trt)
        self._device = device
        self._configs: list[Any] = []  # kept as long as the contexts made with them
        with torch.cuda.device(device):
            check_memory(plan, device)
            self._runtime: Any = self._trt.Runtime(self._log)
            self.engine: Any = self._deserialize(plan, capabilities)
            self.stream = CudaStream(device)
        self._kernels = KernelCache(digest, torch.cuda.get_device_name(device), library.name)
        self._without_context = set(range(self.engine.num_optimization_profiles))

    def new_context(self, profile: int, *, one_width: bool) -> Any:
        """See `Backend.new_context`. The GPU must be torch's current device, as in the stream's `active`."""
        context = self._new_context(one_width)
        if context is None:
            raise EngineError(
                f"TensorRT could not make an execution context: {self.take_messages()}",
                hint="if memory is short, free some on the GPU, or ask for fewer sequences at a time",
            )
        self._without_context.discard(profile)
        return context

    def check_room(self, cache_bytes: int) -> None:
        """See `Backend.check_room`."""
        working = sum(self.engine.get_device_memory_size_for_profile_v2(profile) for profile in self._without_context)
        free = free_bytes(self._device)
        if cache_bytes + working > free:
            raise RequestError(
                f"the caches take {bytes_text(cache_bytes)} and running the engine {bytes_text(working)}, but "
                f"{describe(self._device)} has {bytes_text(free)} free",
                hint="ask for fewer sequences at a time, or compile with a smaller --max-batch or --max-seq",
            )

    def take_messages(self) -> str:
        """See `Backend.take_messages`."""
        messages = "; ".join(self._log.messages)
        self._log.messages.clear()
        return messages

    def _new_context(self, one_width: bool) -> Any:
        # Memory for one profile, not for the largest of all: every profile has a context of its own.
        strategy = self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if not hasattr(self.engine, "create_runtime_config"):
            return self.engine.create_execution_context(strategy)
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if one_width and hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            # A recorded step keeps the kernels that it was recorded with, so they must be there from the start.
            eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        self._kernels.attach(config)
        self._configs.append(config)
        return self.engine.create_execution_context(config)

    def _deserialize(self, plan: Path, capabilities: tuple[str, ...]) -> Any:
        try:
            with plan.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot read {plan}: {error}", hint="compile the engine again") from None
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is not None:
            return engine
        reasons = [*diagnose(self._trt, self._runtime, content), self.take_messages()]
        built_for = f" (it was built for {', '.join(capabilities)})" if capabilities else ""
        raise TargetError(
            f"TensorRT refused {plan}{built_for} on {describe(self._device)}: {'; '.join(filter(None, reasons))}",
            hint=f"compile the engine again for this GPU, or {EMULATE}",
        )
