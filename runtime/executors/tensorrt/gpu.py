"""Plans run by TensorRT, on a CUDA GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compiler.errors import EngineError, RequestError, TargetError
from compiler.sizes import bytes_text
from compiler.store.mapped_file import MappedFile
from compiler.trt_network.capabilities import CAPABILITIES
from compiler.trt_network.library import Library
from compiler.trt_network.messages import Messages, registering
from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import NetworkRecord, Weight
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.memory import free_bytes
from runtime.executors.tensorrt.gpu_checks import EMULATE, check_memory, describe, diagnose
from runtime.executors.tensorrt.kernel_cache import KernelCache
from runtime.executors.tensorrt.plugins import NO_LAUNCHERS, Launchers, register_plugins
from runtime.executors.tensorrt.ranks import nccl_capsule
from runtime.executors.tensorrt.streams import CudaStream
from runtime.executors.tensorrt.weight_memory import load_weights


class GpuBackend:
    """Plans on a GPU. See `runtime.executors.tensorrt.interface.Backend`."""

    def __init__(
        self,
        library: Library,
        folder: Path,
        weights: str,
        wanted: Iterable[Weight],
        device: torch.device,
        *,
        digest: str | None = None,
        capabilities: tuple[str, ...] = (),
        group: Communicator | None = None,
        plugins: Collection[str] = (),
        launchers: Launchers = NO_LAUNCHERS,
    ) -> None:
        """Bring the weights to a GPU.

        Args:
            library: the package that built the plans.
            folder: the engine directory.
            weights: the weights' file.
            wanted: the weights that the plans read.
            device: the GPU.
            digest: a digest of the plans, to keep compiled kernels for the next time; None keeps none.
            capabilities: compute capabilities that the plans were built for, such as `8.9`, if known.
            group: the ranks that compute together with this one, by NCCL; None if there are no others.
            plugins: the plug-ins that the plans call.
            launchers: what launches them, by their names.

        Raises:
            TargetError: if the GPU has too little memory, the ranks do not exchange tensors by NCCL, or this machine
                cannot run the plug-ins.
            EngineError: if the weights cannot be read.
        """
        self._trt, self._target = library.trt, library.target
        self._folder, self._device, self._capabilities = folder, device, capabilities
        self._messages = Messages(library.trt)
        self._plugin_failures = register_plugins(library, plugins, launchers)
        self._configs: list[Any] = []  # kept as long as the contexts made with them
        self._group = group or SingleRank()  # kept as long as the contexts that have its communicator
        self._communicator = nccl_capsule(self._group)
        self._kernels = KernelCache(digest, torch.cuda.get_device_name(device), library.name)
        path = folder / weights
        with torch.cuda.device(device):
            with registering():
                self._runtime: Any = self._trt.Runtime(self._messages.logger)
            self.stream = CudaStream(device)
            self.weights = load_weights(path, wanted, device, partial(check_memory, path, device=device))

    def load(self, files: PlanFiles, record: NetworkRecord) -> Any:
        """See `Backend.load`."""
        path = self._folder / files.engine
        content = MappedFile(path).data.numpy().data
        check_memory(path, len(content), self._device)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is not None:
            return engine
        reasons = [*diagnose(self._trt, self._runtime, content), self.take_messages()]
        built_for = f" (it was built for {', '.join(self._capabilities)})" if self._capabilities else ""
        raise TargetError(
            f"TensorRT refused {path}{built_for} on {describe(self._device)}: {'; '.join(filter(None, reasons))}",
            hint=f"{self._mend()}, or {EMULATE}",
        )

    def new_context(self, engine: Any, *, eager: bool) -> Any:
        """See `Backend.new_context`."""
        context = self._new_context(engine, eager)
        if context is None:
            raise EngineError(
                f"TensorRT could not make an execution context: {self.take_messages()}",
                hint="if memory is short, free some on the GPU, or ask for fewer sequences at a time",
            )
        if self._communicator is not None and not context.set_communicator(self._communicator):
            raise EngineError(
                f"TensorRT did not take the communicator of the ranks: {self.take_messages()}",
                hint="NCCL_DEBUG=WARN shows what NCCL says about it",
            )
        return context

    def context_bytes(self, engine: Any, profile: int) -> int:
        """See `Backend.context_bytes`."""
        return int(engine.get_device_memory_size_for_profile_v2(profile))

    def check_memory(self, cache_bytes: int, context_bytes: int) -> None:
        """See `Backend.check_memory`."""
        free = free_bytes(self._device)
        if cache_bytes + context_bytes > free:
            raise RequestError(
                f"the caches take {bytes_text(cache_bytes)} and running the engine {bytes_text(context_bytes)}, but "
                f"{describe(self._device)} has {bytes_text(free)} free",
                hint="ask for fewer sequences at a time, or compile with a smaller --max-batch or --max-seq",
            )

    def _mend(self) -> str:
        return CAPABILITIES[self._target].hint(".".join(map(str, torch.cuda.get_device_capability(self._device))))

    def take_messages(self) -> str:
        """See `Backend.take_messages`."""
        failures = [*self._plugin_failures]
        self._plugin_failures.clear()
        return "; ".join(filter(None, (*failures, self._messages.take())))

    def _new_context(self, engine: Any, eager: bool) -> Any:
        # Memory for one profile, not for the largest of all: every profile has a context of its own.
        strategy = self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if not hasattr(engine, "create_runtime_config"):
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if eager and hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            # A captured step keeps the kernels that it was captured with, so they must be there from the start.
            specialization = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = specialization
        self._kernels.attach(config)
        self._configs.append(config)
        return engine.create_execution_context(config)
