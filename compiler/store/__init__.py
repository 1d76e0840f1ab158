"""What every engine stores: the graph of each rank as text, and its weights as safetensors."""

from compiler.store.ranks import StoredRank, stored_ranks, write_ranks

__all__ = ["StoredRank", "stored_ranks", "write_ranks"]
