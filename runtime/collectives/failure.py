"""What a rank failed of, in a form that travels to the rank that prints it."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass
from typing import Any

from compiler import errors
from compiler.errors import LlmcError, TargetError

STATUS_BUG = 1
STATUS_ERROR = 2


class SharedFailure(Exception):  # noqa: N818 - another rank has the error
    """Raised on other ranks than 0 for a failure that rank 0 raises as an `LlmcError` and reports."""


@dataclass(frozen=True)
class Failure:
    """The failure of one rank.

    Attributes:
        rank: whose it is.
        host: where that rank runs.
        message: what is wrong.
        hint: the mend, if there is one.
        excerpt: lines of IR, if there are any.
        kind: the class of the error; empty for what no part of llmc raises on purpose.
    """

    rank: int
    host: str
    message: str
    hint: str | None = None
    excerpt: str | None = None
    kind: str = "EngineError"

    @classmethod
    def of(cls, error: BaseException, rank: int, host: str) -> Failure:
        """The failure that an exception is."""
        if isinstance(error, LlmcError):
            return cls(rank, host, error.message, error.hint, error.excerpt, type(error).__name__)
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        text = str(error).strip().partition("\n")[0]
        message = f"llmc failed unexpectedly: {type(error).__name__}{': ' if text else ''}{text}{place}"
        return cls(rank, host, message, "this is a bug in llmc; please report it", kind="")

    @property
    def status(self) -> int:
        """The exit status that says it."""
        return STATUS_ERROR if self.kind else STATUS_BUG

    @property
    def headline(self) -> str:
        """The message, with the rank in front."""
        return f"rank {self.rank} on {self.host}: {self.message}"

    def text(self) -> str:
        """What is printed, as the command line prints an error."""
        lines = [f"error: {self.headline}", self.excerpt or "", f"hint: {self.hint}" if self.hint else ""]
        return "\n".join(filter(None, lines))

    def error(self) -> LlmcError:
        """The error to raise on rank 0."""
        kind = getattr(errors, self.kind, TargetError)
        result: LlmcError = kind(self.headline, hint=self.hint, excerpt=self.excerpt)
        return result

    def to_json(self) -> dict[str, Any]:
        """The fields; `Failure(**fields)` is the inverse."""
        return asdict(self)
