"""What a user can do about a file that cannot be read."""

from __future__ import annotations


def reading_hint(error: BaseException, damaged: str) -> str:
    """The mend for a failure to read a file.

    Args:
        error: the failure.
        damaged: the mend for a file that is damaged, such as to copy it again; a file that may not be read is whole.
    """
    if isinstance(error, PermissionError):
        return f"you may not read it: chmod +r {error.filename}" if error.filename else "you may not read it"
    return damaged
