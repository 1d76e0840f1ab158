"""What happens when a command fails: one message, a status, and no traceback unless it is asked for."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from compiler.errors import LlmcError, is_out_of_memory
from llmc.cli.options import settings

P = ParamSpec("P")

EXIT_BUG = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 128 + signal.SIGPIPE


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Decorator for commands: errors become messages on standard error and an exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except LlmcError as error:
            raise typer.Exit(_error(error)) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(_broken_pipe()) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line
            raise typer.Exit(_bug(error)) from None

    return run


def _error(error: LlmcError) -> int:
    _traceback(error)
    print(f"error: {error.message}", file=sys.stderr)
    if error.excerpt:
        print(error.excerpt, file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return EXIT_ERROR


def _bug(error: Exception) -> int:
    _traceback(error)
    text = str(error).strip().partition("\n")[0]
    if is_out_of_memory(error):
        print(f"error: there is not enough memory{': ' if text else ''}{text}", file=sys.stderr)
        print("hint: end other programs, or ask for less at once: fewer or shorter sequences", file=sys.stderr)
        return EXIT_ERROR
    print(f"error: llmc failed unexpectedly: {type(error).__name__}{': ' if text else ''}{text}", file=sys.stderr)
    if not settings.debug:
        print("hint: this is a bug in llmc; please report it with what --debug shows", file=sys.stderr)
    return EXIT_BUG


def _traceback(error: Exception) -> None:
    if settings.debug:
        traceback.print_exception(error)


def _broken_pipe() -> int:
    # Python flushes standard output once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PIPE
