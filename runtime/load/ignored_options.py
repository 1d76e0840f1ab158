"""Options that were given and do nothing: what was asked for and not done is said, once, as a note."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.executors.kind import ExecutorKind


@dataclass(frozen=True)
class Case:
    """A case in which options do nothing.

    Attributes:
        holds: whether it is the case.
        why: why they do nothing then, as the rest of a sentence.
        options: the options, each with whether it was given: whether it has another value than its default.
    """

    holds: bool
    why: str
    options: Mapping[str, bool]


def ignored_notes(*cases: Case) -> Iterator[str]:
    """A sentence for each case that holds and in which options were given in vain."""
    for case in cases:
        names = [name for name, given in case.options.items() if given]
        if case.holds and names:
            listed = ", ".join(names[:-1]) + (" and " if names[:-1] else "") + names[-1]
            yield f"{listed} {'does' if len(names) == 1 else 'do'} nothing here: {case.why}"


def device_cases(kind: ExecutorKind, device: str, threads: int | None, *, on_gpu: bool) -> tuple[Case, ...]:
    """The cases in which the choice of a device, or of threads, does nothing.

    Args:
        kind: what runs the engine.
        device: the device, as given by the user.
        threads: the number of threads, as given by the user.
        on_gpu: whether it runs on a GPU.
    """
    return (
        Case(
            kind.cpu_only,
            f"the {kind.name} computes on the CPU",
            {"--device": device not in ("auto", "cpu")},
        ),
        Case(on_gpu, "the engine runs on a GPU", {"--threads": threads is not None}),
    )
