"""Element types as users spell them."""

from __future__ import annotations

from compiler.errors import PassError
from compiler.ir.dtypes import COMPUTE_DTYPES
from compiler.suggest import did_you_mean

# What other programs call the types.
_OTHERS = {
    "float32": ("fp32", "float", "single"),
    "float16": ("fp16", "half"),
    "bfloat16": ("bf16", "bfloat", "bfp16"),
}
_SHORT = {dtype.value: name for name, dtype in COMPUTE_DTYPES.items()}


def dtype_name(text: str | None) -> str | None:
    """`float32` for `float32` or `f32`, and so on; None for None. PassError, with a suggestion, for anything else."""
    if text is None or text in COMPUTE_DTYPES:
        return text
    if text in _SHORT:
        return _SHORT[text]
    meant = next((name for name, other in _OTHERS.items() if text.lower() in other), None)
    near = f"; did you mean {meant!r}?" if meant else did_you_mean(text, COMPUTE_DTYPES)
    raise PassError(f"there is no --dtype {text!r}{near}", hint=f"use {', '.join(COMPUTE_DTYPES)}")


def long_spelling(short: str) -> str:
    """`float16` for `f16`; the same for any other word."""
    return _SHORT.get(short, short)
