"""The ops of the IR, one typed function each; importing this package registers them."""

from compiler.ir.ops import elementwise, nn, paged, parallel, quant, shape, source, unpack

__all__ = ["elementwise", "nn", "paged", "parallel", "quant", "shape", "source", "unpack"]
