"""Seeds of random numbers."""

from __future__ import annotations

from compiler.errors import LlmcError

_LIMIT = 2**63


def check_seed(seed: int, error: type[LlmcError]) -> None:
    """An `error` if the generators of random numbers have no such seed."""
    if not -_LIMIT <= seed < _LIMIT:
        raise error(f"the seed is {seed}; it must fit into 64 bits", hint="use a smaller number, such as 0")
