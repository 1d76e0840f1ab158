"""Frontends: from a checkpoint to a step graph. One small file per family; nothing else knows about models."""

from __future__ import annotations

# Importing a family's module registers it.
from compiler.frontends import gpt_neox, gptj, mpt, opt
from compiler.frontends.checkpoint import Checkpoint, open_checkpoint
from compiler.frontends.hub import resolve_model
from compiler.frontends.lift import lift
from compiler.frontends.limits import Limits
from compiler.frontends.registry import families, frontend
from compiler.store.stored_tensor import StoredTensor

__all__ = [
    "Checkpoint",
    "Limits",
    "StoredTensor",
    "families",
    "frontend",
    "gpt_neox",
    "gptj",
    "lift",
    "mpt",
    "open_checkpoint",
    "opt",
    "resolve_model",
]
