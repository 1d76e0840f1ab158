"""All emulated layers; importing this module fills the table."""

from compiler.trt_emulator import (
    attention,
    collective,
    indexing,
    nn,
    plugin_attention,
    pointwise,
    products,
    quantize,
    shape,
)
from compiler.trt_emulator.table import Emulation, LayerCall, RankExchange, emulated_kinds, emulates, find_emulation

__all__ = [
    "Emulation",
    "LayerCall",
    "RankExchange",
    "attention",
    "collective",
    "emulated_kinds",
    "emulates",
    "find_emulation",
    "indexing",
    "nn",
    "plugin_attention",
    "pointwise",
    "products",
    "quantize",
    "shape",
]
