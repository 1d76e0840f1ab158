"""Triton's interpreter, which runs kernels on a CPU where `TRITON_INTERPRET=1` is set before triton is imported."""

from __future__ import annotations

from typing import Any

import triton


def allow_bounds_of_loops() -> None:
    """Let loops of interpreted kernels have bounds that are computed in the kernel.

    The interpreter of triton 3.6 keeps scalars as arrays of one element, which numpy 2.4 no longer takes for integers.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_with_index


if triton.knobs.runtime.interpret:
    allow_bounds_of_loops()
