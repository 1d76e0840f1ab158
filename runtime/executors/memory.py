"""What is said where a step finds no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compiler.errors import RequestError, is_out_of_memory


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """RequestError, instead of torch's or Python's own error, if there is no memory for `what`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RequestError(
            f"there is no memory for {what}: {reason}",
            hint="ask for shorter prompts, or fewer at a time; the engine may be compiled for fewer: --max-batch",
        ) from error
