"""Running frames: an execution context on one profile, and steps that are captured and replayed."""

from __future__ import annotations

from collections.abc import Callable

from compiler.errors import EngineError
from runtime.executors.tensorrt.frame import Frame
from runtime.executors.tensorrt.interface import Backend, TensorEngine
from runtime.executors.tensorrt.signature import Signature


class ProfileContext:
    """An execution context that stays on its profile and reads its weights where they lie."""

    def __init__(self, backend: Backend, engine: TensorEngine, signature: Signature, profile: int) -> None:
        """Make the context; EngineError if that fails."""
        least, largest = signature.profiles[profile].width
        self._backend = backend
        self._context = backend.new_context(engine, eager=least == largest)
        self._frame: Frame | None = None
        self._runs = 0
        self._replay: Callable[[], None] | None = None
        chosen = self._context.set_optimization_profile_async(profile, backend.stream.handle)
        self._check(chosen, f"use its profile {profile}")
        for tensor, weight in signature.weights:
            address = backend.weights.view(weight.source, tensor.nbytes, weight.offset).data_ptr()
            self._check(self._context.set_tensor_address(tensor.name, address), f"take the memory of {tensor.name}")

    def run(self, frame: Frame, *, capture: bool) -> None:
        """Put a run on the stream.

        Args:
            frame: its tensors.
            capture: whether to capture the second run of the same frame, and to replay it from then on. The first
                one makes what a capture cannot: kernels and memory.

        Raises:
            EngineError: if TensorRT refuses it.
        """
        if frame is not self._frame:
            self._bind(frame)
        if capture and self._runs == 1:
            self._replay = self._backend.stream.capture(self._launch)
        self._runs += 1
        (self._replay or self._launch)()

    def _bind(self, frame: Frame) -> None:
        """Tell the context shapes and places. What was captured is of no use afterwards: it holds for the old ones."""
        self._frame = self._replay = None
        self._runs = 0
        for name, shape in frame.shapes.items():
            self._check(self._context.set_input_shape(name, shape), f"take {name} of the shape {list(shape)}")
        for name, address in frame.addresses.items():
            self._check(self._context.set_tensor_address(name, address), f"take the memory of {name}")
        missing = self._context.infer_shapes()
        self._check(not missing, f"infer its shapes: {', '.join(missing)} have none")
        for name, tensor in frame.outputs.items():
            given, wanted = list(self._context.get_tensor_shape(name)), list(tensor.shape)
            self._check(given == wanted, f"give {name} of the shape {wanted}: it would have {given}")
        self._frame = frame

    def _launch(self) -> None:
        self._check(self._context.execute_async_v3(self._backend.stream.handle), "run a step")
        if self._frame is not None:
            self._frame.place()

    def _check(self, success: bool, what: str) -> None:
        if not success:
            raise EngineError(
                f"the engine did not {what}: {self._backend.take_messages() or 'no reason was given'}",
                hint="compile the engine again; if that does not help, run it with --executor emulator to compare",
            )
