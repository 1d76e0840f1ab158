"""Frontends: from a checkpoint to a step graph. One small file per family; nothing else knows about models."""

from __future__ import annotations

# Importing a family's module registers it.
from compiler.frontends import gpt_neox, gptj, mpt, opt
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.composed import ComposedTensor, SourceTensor
from compiler.frontends.hub import resolve_model
from compiler.frontends.layouts import is_checkpoint, open_checkpoint
from compiler.frontends.lift import lift
from compiler.frontends.limits import Limits
from compiler.frontends.registry import families, frontend
from compiler.store.stored_tensor import StoredTensor

__all__ = [
    "Checkpoint",
    "ComposedTensor",
    "Limits",
    "SourceTensor",
    "StoredTensor",
    "families",
    "frontend",
    "gpt_neox",
    "gptj",
    "is_checkpoint",
    "lift",
    "mpt",
    "open_checkpoint",
    "opt",
    "resolve_model",
]
