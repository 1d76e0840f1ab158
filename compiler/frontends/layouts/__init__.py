"""Layouts: the ways in which tools lay a checkpoint out in files. One small file a layout; see `registry.Layout`."""

from __future__ import annotations

# Importing a layout's module registers it.
from compiler.frontends.layouts import composer, ft, gguf, hugging_face, neox, tensorrt_llm
from compiler.frontends.layouts.opening import is_checkpoint, open_checkpoint
from compiler.frontends.layouts.registry import LAYOUTS, Layout, layout, layout_of

__all__ = [
    "LAYOUTS",
    "Layout",
    "composer",
    "ft",
    "gguf",
    "hugging_face",
    "is_checkpoint",
    "layout",
    "layout_of",
    "neox",
    "open_checkpoint",
    "tensorrt_llm",
]
