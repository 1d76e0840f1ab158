"""How work says how far it is: what it calls."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage, and how much of it is done and in total; a total of 0 for a stage that is not measured yet.

Within a stage `done` grows, unless its work begins again at 0, and at the end it is the total. The stage may be an
`llmc.progress.Phase`, which says more.
"""

Report = Callable[[int, int], None]
"""The same for one stage: called with how much is done and in total."""

Advance = Callable[[int], None]
"""The same by steps: called with how much was done since the last call."""


def unheard(done: int, total: int) -> None:
    """The `Report` of work that nobody watches."""
