"""What a file is whose content is not what its name says."""

from __future__ import annotations

from pathlib import Path

from compiler.errors import CheckpointError
from compiler.os_errors import reading_hint

AGAIN = "download or copy the file again"
_LFS = b"version https://git-lfs"
_START = 64  # bytes that tell a kind

SAFETENSORS, ZIP, PICKLE = "a safetensors file", "an archive of torch.save", "a pickle"
# How a file begins → what it is, and the hint what to do.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\3\4", ZIP, "give it a name that ends in .bin"),
    (b"\x80\x02", PICKLE, "give it a name that ends in .bin"),
    (b"GGUF", "a GGUF file", "give the file itself as the model, with a name that ends in .gguf"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"<", "a web page, as failed downloads leave", AGAIN),
)


def read_start(path: Path, file: str) -> bytes:
    """How the file at `path` begins; `file` is what to call it.

    Raises:
        CheckpointError: if it cannot be read, or is a pointer to content that was never fetched.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except IsADirectoryError:
        raise CheckpointError(
            f"{file} is a folder, where the file of that name should be", hint="put the file in its place"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}", hint=reading_hint(error, AGAIN)) from None
    if start.startswith(_LFS):
        raise CheckpointError(
            f"{file} is a Git LFS pointer of {path.stat().st_size} bytes, not what it points to",
            hint="fetch it: git lfs pull",
        )
    return start


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file at `path` stands for one whose content was never fetched; False if there is no file."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_LFS)) == _LFS
    except FileNotFoundError:
        return False


def refuse_others(start: bytes, file: str, wanted: str, *own: str) -> None:
    """CheckpointError, saying what it is, if a file that begins so is known to be of another kind than `wanted`.

    Args:
        start: the first bytes.
        file: what to call the file.
        wanted: what it should be, for the message.
        own: those of the known kinds that it may be.
    """
    if start[8:9] == b"{":  # after the length of its header, which may begin like anything
        found = [(SAFETENSORS, "give it a name that ends in .safetensors")]
    else:
        found = [(kind, hint) for beginning, kind, hint in _KINDS if start.startswith(beginning)]
    for kind, hint in found:
        if kind not in own:
            raise CheckpointError(f"{file} is {kind}, not {wanted}", hint=hint)
