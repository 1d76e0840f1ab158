"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, alike: float = 0.6) -> str:
    """`"; did you mean 'x'?"` for the nearest known name, or an empty string if none is `alike`, from 0 to 1."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=alike)
    return f"; did you mean {close[0]!r}?" if close else ""
