"""The pass `kv`: caches in 8 bits."""
