"""The `torch` target: a rank's graph as text, and its weights as safetensors."""

from compiler.store.write_ranks import EmittedRank, emit_torch, stored_ranks

__all__ = ["EmittedRank", "emit_torch", "stored_ranks"]
