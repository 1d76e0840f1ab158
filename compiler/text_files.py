"""Text that users write: UTF-8, whatever a Windows editor has put into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import LlmcError
from compiler.os_errors import reading_hint
from compiler.suggest import did_you_mean_path

_MARK = "\ufeff"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class TextFile:
    """A text, as everything here takes it: lines end with LF, and there is no byte order mark.

    Attributes:
        text: the text.
        marked: whether a byte order mark was dropped at its beginning.
        carriage_returns: how many line ends were CR LF, and have become LF.
    """

    text: str
    marked: bool = False
    carriage_returns: int = 0

    def note(self, name: str) -> str | None:
        """A sentence that says what was dropped from the text `name`; None if nothing was."""
        mark = "the byte order mark at its beginning is left out"
        ends = f"{self.carriage_returns:,} line ends of carriage return and line feed count as line feeds"
        said = [mark] * self.marked + [ends] * bool(self.carriage_returns)
        return f"{name}: {', and '.join(said)}" if said else None


def read_text(path: str | os.PathLike[str], error: type[LlmcError], *, what: str = "") -> TextFile:
    """The text in a file of the user's.

    Args:
        path: the file; `~` is the user's folder.
        error: the kind of error to raise.
        what: what the file holds, for messages, such as `the prompts in`.

    Raises:
        LlmcError: of the kind `error`, naming the file, if it cannot be read or is not UTF-8.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as failure:
        raise _unreadable(path, failure, error, what) from None
    return decode_text(data, str(path), error)


def decode_text(data: bytes, name: str, error: type[LlmcError]) -> TextFile:
    """The text that bytes spell in UTF-8; an `error`, naming them `name`, if they spell none."""
    try:
        text = data.decode()
    except UnicodeDecodeError as failure:
        reason = f"{failure.reason} at byte {failure.start}"
        looks = "it looks like UTF-16: " if data.startswith(_UTF16) else ""
        raise error(f"{name} is not UTF-8 text ({reason})", hint=f"{looks}save it as UTF-8") from None
    return TextFile(
        text.removeprefix(_MARK).replace("\r\n", "\n"),
        marked=text.startswith(_MARK),
        carriage_returns=text.count("\r\n"),
    )


def _unreadable(path: str | os.PathLike[str], failure: OSError, error: type[LlmcError], what: str) -> LlmcError:
    named = " ".join([*([what] if what else []), str(path)])
    if isinstance(failure, IsADirectoryError):
        return error(f"cannot read {named}: it is a folder", hint="give a file")
    near = did_you_mean_path(Path(path).expanduser(), Path.is_file) if isinstance(failure, FileNotFoundError) else ""
    return error(f"cannot read {named}: {failure.strerror}{near}", hint=reading_hint(failure, "") or None)
