"""What `--target` means on this machine."""

from __future__ import annotations

from compiler.errors import TargetError
from compiler.ir.suggest import did_you_mean

_KNOWN = ("auto", "torch", "tensorrt-rtx", "tensorrt")


def resolve_targets(text: str) -> tuple[tuple[str, ...], str | None]:
    """The targets that a list such as `torch` or `auto` asks for, each once, and a note on what `auto` chose and why.

    Raises:
        TargetError: if one is unknown, or not in this version of llmc.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _KNOWN:
            raise TargetError(
                f"there is no target {name!r}{did_you_mean(name, _KNOWN)}", hint=f"targets are: {', '.join(_KNOWN)}"
            )
        if name.startswith("tensorrt"):
            raise TargetError(
                f"the target {name!r} is not available in this version of llmc",
                hint="build for torch, which runs on any CPU and any CUDA GPU: --target torch",
            )
    note = "target: torch, the only one that this version of llmc has" if "auto" in names else None
    return tuple(dict.fromkeys("torch" if name == "auto" else name for name in names)), note
