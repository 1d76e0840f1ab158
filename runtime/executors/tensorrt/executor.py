"""The TensorRT executor: the same for engines on a GPU and for emulated ones."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import EngineError, RequestError, TargetError
from compiler.trt_network.library import Library, load_library
from compiler.trt_network.plans import Plans, read_plans
from compiler.trt_network.record import read_record
from runtime.collectives.communicator import Communicator, SingleRank
from runtime.executors.interface import PlanSize, WholeSession
from runtime.executors.tensorrt.caches import cache_bytes
from runtime.executors.tensorrt.candidates import Candidates
from runtime.executors.tensorrt.frame import StepInputs
from runtime.executors.tensorrt.interface import Backend
from runtime.executors.tensorrt.plan import Plan
from runtime.executors.tensorrt.plugins import NO_LAUNCHERS, Launchers
from runtime.executors.tensorrt.ranks import check_group
from runtime.executors.tensorrt.stage import TensorRTStage

if TYPE_CHECKING:
    from runtime.executors.tensorrt.emulated import Observe

_DISTRIBUTIONS = {"tensorrt-rtx": "tensorrt-rtx-cu13", "tensorrt": "tensorrt"}


class TensorRTExecutor:
    """Runs the plans of a rank. See `runtime.executors.interface.Executor`.

    Attributes:
        name: `tensorrt-rtx`, `tensorrt` or `emulator`.
        plans: the plans.
    """

    def __init__(self, backend: Backend, plans: Sequence[Plan], *, name: str, cuda_graphs: bool = True) -> None:
        """Run plans.

        Args:
            backend: how this machine runs them.
            plans: the plans, those for smaller steps first: of several that fit a step, the first is taken.
            name: what messages call the executor.
            cuda_graphs: whether to capture steps of one token a row where the backend can.

        Raises:
            EngineError: if there is no plan, or they are not of one model.
        """
        self.name, self.plans = name, tuple(plans)
        self._backend, self._capture = backend, cuda_graphs
        self._candidates = Candidates(self.plans)
        with backend.stream.active():
            self._inputs = StepInputs([plan.signature for plan in plans], backend.stream.device)

    @classmethod
    def load(
        cls,
        folder: Path,
        files: Mapping[str, str],
        *,
        device: str = "auto",
        emulate: bool = False,
        observe: Observe | None = None,
        target: str = "tensorrt-rtx",
        digests: Mapping[str, str] | None = None,
        capabilities: tuple[str, ...] = (),
        cuda_graphs: bool = True,
        group: Communicator | None = None,
        launchers: Launchers = NO_LAUNCHERS,
    ) -> TensorRTExecutor:
        """Load a rank: its weights at once, each plan when it is first used.

        Args:
            folder: the engine directory.
            files: the rank's files by role; `plans` is read.
            device: `auto`, `cuda` or `cuda:N`; `auto` or `cpu` if emulated.
            emulate: whether to run it without TensorRT and GPU, slowly.
            observe: if emulated, called after each layer of each run with the layer and the tensors that it made.
            target: the target that the files are of: `tensorrt-rtx` or `tensorrt`.
            digests: the sha256 of each file, under which compiled kernels are kept; None keeps none.
            capabilities: compute capabilities that the engine was built for, if known; for messages.
            cuda_graphs: whether to capture steps of one token a row, which makes them faster.
            group: the ranks that compute together with this one, by NCCL unless emulated; None if there are no others.
            launchers: the kernels of the plug-ins that plans may call, unless emulated.

        Raises:
            TargetError: if this machine lacks the package, its version, the GPU, memory or the plug-ins that the plans
                call, or the plans are for another number of ranks.
            EngineError: if the files cannot be read, or are not of an engine that llmc built.
        """
        listed = read_plans(folder / files["plans"])
        records = [read_record(folder / plan.network) for plan in listed.plans]
        wanted = {weight for record in records for weight in record.weights.values()}
        group = group or SingleRank()
        for record in records:
            check_group(record, group.size)
        if emulate:
            from runtime.executors.tensorrt.emulated import EmulatedBackend

            backend: Backend = EmulatedBackend(folder, listed.weights, wanted, device, observe, group)
        else:
            from runtime.executors.tensorrt.gpu import GpuBackend
            from runtime.executors.tensorrt.gpu_checks import cuda_device

            library = load_library(target)
            for record in records:
                check_version(library, record.package)
            backend = GpuBackend(
                library,
                folder,
                listed.weights,
                wanted,
                cuda_device(device),
                digest=_digest(listed, digests) if digests else None,
                capabilities=capabilities,
                group=group,
                plugins={name for record in records for name in record.plugins},
                launchers=launchers,
            )
        plans = [Plan(backend, plan, record) for plan, record in zip(listed.plans, records, strict=True)]
        return cls(backend, plans, name="emulator" if emulate else target, cuda_graphs=cuda_graphs)

    @property
    def plan_sizes(self) -> tuple[PlanSize, ...]:
        """See `runtime.executors.interface.PlannedExecutor`."""
        return tuple(plan.size for plan in self.plans)

    def limited_to(self, names: Collection[str]) -> TensorRTExecutor:
        """See `runtime.executors.interface.PlannedExecutor`: weights and contexts are shared."""
        plans = [plan for plan in self.plans if plan.name in names]
        return TensorRTExecutor(self._backend, plans, name=self.name, cuda_graphs=self._capture)

    def open(self, batch: int, capacity: int) -> WholeSession[TensorRTStage]:
        """Start sequences, at most `batch` of at most `capacity` tokens each. Caches grow as the sequences do.

        Raises:
            RequestError: if the engine was not built for so many, or the memory does not suffice.
            TargetError: if this machine cannot run the plans.
            EngineError: if they cannot be read, or are of one stage of several.
        """
        signature = self._candidates.signature
        if signature.received or signature.sent or signature.logits is None:
            raise EngineError(
                "the plans are those of one stage of several", hint="run it on all ranks: llmc run ENGINE"
            )
        return WholeSession(self.open_stage(batch, capacity), batch, capacity)

    def open_stage(self, batch: int, capacity: int) -> TensorRTStage:
        """Start a stage's part of sequences; see `open`, also for the errors."""
        for what, size in (("sequences", batch), ("tokens per sequence", capacity)):
            if size < 1:
                raise RequestError(f"{size} {what} were asked for; there must be at least 1")
        sizes = self._candidates.sizes(batch, capacity)
        with self._backend.stream.active():
            used = [self._candidates.decode(size) for size in sizes]
            used += [candidate for size in sizes for candidate in self._candidates.prefill(size)]
            contexts = sum({candidate: candidate.plan.memory_to_come(candidate.profile) for candidate in used}.values())
        self._backend.check_memory(cache_bytes(self._candidates.signature, sizes[-1]), contexts)
        return TensorRTStage(
            self._backend.stream, self._candidates, self._inputs, batch, capacity, capture=self._capture
        )


def check_version(library: Library, built_with: str) -> None:
    """TargetError unless an engine was built with this version of the package: TensorRT loads no other's."""
    if library.name != built_with:
        version = built_with.rpartition(" ")[2]
        raise TargetError(
            f"the engine was built with {built_with}, but {library.name} is installed",
            hint=f"pip install {_DISTRIBUTIONS[library.target]}=={version}, or compile the engine again",
        )


def _digest(plans: Plans, digests: Mapping[str, str]) -> str:
    """A digest of the engines of all plans."""
    return hashlib.sha256("\n".join(digests[plan.engine] for plan in plans.plans).encode()).hexdigest()
