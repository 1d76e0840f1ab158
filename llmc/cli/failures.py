"""What all commands share: plug-ins are there when one starts, and one that fails gives a message and a status."""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec

import typer

from compiler.errors import LlmcError, PluginError, is_out_of_memory
from llmc.cli.console import note
from llmc.cli.options import settings
from runtime.processes.environment import rank_from_environment, world_size_from_environment
from runtime.processes.streams import started_by_llmc

P = ParamSpec("P")

EXIT_BUG = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 128 + signal.SIGPIPE


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Decorator for commands: plug-ins are loaded first, those of `--plugin` and those of installed packages.

    Errors become messages on standard error and an exit status.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            _load_plugins(kwargs)
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


def _load_plugins(options: dict[str, Any]) -> None:
    """Load plug-ins, and say which packages cannot be: once, however many ranks run the command."""
    from compiler.plugins import load_plugins

    try:
        notes = load_plugins(options.get("plugin") or ())
    except PluginError as error:
        if (world_size_from_environment() or 1) == 1:
            raise
        where = f"rank {rank_from_environment()} on {socket.gethostname()}"  # another host may have other files
        raise PluginError(f"{where}: {error.message}", hint=error.hint) from error
    if not options.get("quiet") and rank_from_environment() == 0 and not started_by_llmc():
        for text in notes:
            note(text)


def error_text(error: LlmcError) -> str:
    """What the user is told of an error: its message, an excerpt and a hint, if it has them, a line each."""
    lines = [f"error: {error.message}"]
    lines += [error.excerpt] if error.excerpt else []
    lines += [f"hint: {error.hint}"] if error.hint else []
    return "\n".join(lines)


def _error(error: LlmcError) -> int:
    _traceback(error)
    print(error_text(error), file=sys.stderr)
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
