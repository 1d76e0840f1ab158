"""The rules of the emitter, one function for each kind of op; importing this package registers them."""

from compiler.backend_trt.rules import attention, collective, elementwise, linear, nn, quant, shape

__all__ = ["attention", "collective", "elementwise", "linear", "nn", "quant", "shape"]
