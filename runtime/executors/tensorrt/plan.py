"""A plan of an engine, loaded when it is first used."""

from __future__ import annotations

from functools import cached_property

from compiler.trt_network.plans import PlanFiles
from compiler.trt_network.record import NetworkRecord
from runtime.executors.interface import PlanSize
from runtime.executors.tensorrt.context import ProfileContext
from runtime.executors.tensorrt.engine_check import check_engine
from runtime.executors.tensorrt.interface import Backend, TensorEngine
from runtime.executors.tensorrt.signature_reading import read_signature


class Plan:
    """A plan: what it takes, at once; its engine and its contexts, when they are needed.

    Attributes:
        name: what messages call it.
        signature: what it takes and gives.
    """

    def __init__(self, backend: Backend, files: PlanFiles, record: NetworkRecord) -> None:
        """Know the plan by its record; EngineError if that is of no plan that llmc built."""
        self.name = files.name
        self.signature = read_signature(record, files.network)
        self._backend, self._files, self._record = backend, files, record
        self._contexts: dict[int, ProfileContext] = {}

    @property
    def size(self) -> PlanSize:
        """What steps it is for."""
        profiles = self.signature.profiles
        rows = max((profile.rows[1] for profile in profiles if profile.width[0] == 1), default=0)
        return PlanSize(self.name, rows, max(profile.width[1] for profile in profiles), self.signature.capacity)

    @cached_property
    def engine(self) -> TensorEngine:
        """The engine.

        Raises:
            TargetError: if this machine cannot run it.
            EngineError: if its file cannot be read, or is not of the plan's record.
        """
        engine = self._backend.load(self._files, self._record)
        check_engine(engine, self._record, self._files.engine)
        return engine

    def context(self, profile: int) -> ProfileContext:
        """The context of a profile; raises as `engine` does, and EngineError if it cannot be made."""
        if profile not in self._contexts:
            self._contexts[profile] = ProfileContext(self._backend, self.engine, self.signature, profile)
        return self._contexts[profile]

    def memory_to_come(self, profile: int) -> int:
        """The bytes that the context of a profile will take on the device; 0 if it was made already."""
        return 0 if profile in self._contexts else self._backend.context_bytes(self.engine, profile)
