"""The emulator: it evaluates recorded networks on the CPU, behind the calls of TensorRT's engine and context."""

from compiler.trt_emulator.context import EmulatedContext
from compiler.trt_emulator.engine import EmulatedEngine, open_emulated

__all__ = ["EmulatedContext", "EmulatedEngine", "open_emulated"]
