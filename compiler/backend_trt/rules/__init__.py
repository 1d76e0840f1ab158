"""The rules of the emitter, one function for each kind of op; importing this package registers them."""

from compiler.backend_trt.rules import attention, elementwise, nn, quant, shape

__all__ = ["attention", "elementwise", "nn", "quant", "shape"]
