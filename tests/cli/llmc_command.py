"""Calling the command line within the test's process."""

from __future__ import annotations

from typing import Any, NamedTuple

from typer.testing import CliRunner

from llmc.cli import options
from llmc.cli.entry import app


class Result(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    def failed(self, message: str, hint: str | None = None) -> None:
        """Assert that it failed as commands should: one message, status 2, nothing on standard output, no traceback."""
        assert self.status == 2, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        assert message in errors[0]
        if hint is not None:
            assert hint in next(line for line in self.err.splitlines() if line.startswith("hint: "))


def llmc(*arguments: Any, stdin: str | bytes | None = None) -> Result:
    """Run `llmc` with these arguments; numbers and paths may be given as they are."""
    options.settings.debug, options.settings.arguments = False, tuple(map(str, arguments))
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, prog_name="llmc")
    return Result(result.exit_code, result.stdout, result.stderr)
