"""Adapters: what was trained beside a checkpoint, and becomes a part of its graph by a pass."""

from compiler.adapters.merge_lora import MergeLora
from compiler.adapters.prompts import AddPrompts

__all__ = ["AddPrompts", "MergeLora"]
