"""Kernels that TensorRT-RTX compiled for this GPU, kept in a file for the next time."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path
from typing import Any

from compiler.atomic_file import replacing
from compiler.cache import cache_folder


class KernelCache:
    """The runtime cache of an engine. It is written when this object goes, at the end of the program at the latest."""

    def __init__(self, digest: str | None, gpu: str, package: str) -> None:
        """Name the file; nothing is read yet.

        Args:
            digest: the engine's sha256; None keeps nothing.
            gpu: the GPU's name.
            package: the package and version that compiles.
        """
        key = hashlib.sha256("\n".join((digest or "", gpu, package)).encode()).hexdigest()
        self.path = cache_folder() / f"kernels-{key[:32]}.bin" if digest else None
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Use the cache for the contexts of a runtime configuration, where this TensorRT has caches."""
        if self.path is None or not hasattr(config, "create_runtime_cache"):
            return
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            known = _read(self._cache, self.path)
            weakref.finalize(self, write_cache, self._cache, self.path, known)
        config.set_runtime_cache(self._cache)


def _read(cache: Any, path: Path) -> bytes:
    """Fill the cache from a file; returns its content, empty if it is missing, damaged or of another system."""
    try:
        content = path.read_bytes()
        return content if cache.deserialize(content) else b""
    except (OSError, RuntimeError):
        return b""


def write_cache(cache: Any, path: Path, known: bytes) -> None:
    """Write the cache, whole or not at all, unless it holds what is `known`. Failing is no error: only time is lost."""
    try:
        content = bytes(cache.serialize() or b"")
        if content in (known, b""):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, RuntimeError):
        return
