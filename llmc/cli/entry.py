"""`llmc`: the commands, and what happens when one fails."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import click
import typer

from compiler.errors import LlmcError
from llmc.cli import options
from llmc.cli.compile_command import compile_command
from llmc.cli.diff_command import diff_command
from llmc.cli.inspect_command import inspect_command
from llmc.cli.opt_command import opt_command
from llmc.cli.passes_command import passes_command
from llmc.cli.run_command import run_command

EXIT_BUG = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    name="llmc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        import llmc

        print(f"llmc {llmc.__version__}")
        raise typer.Exit


@app.callback()
def llmc_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Compile LLM checkpoints into engines, and run them.

    \b
    llmc compile examples/models/gptneox-tiny -o my.engine
    llmc run my.engine --prompt "The function returns"
    llmc inspect my.engine

    Errors exit with status 2 and say how to mend them; a bug in llmc itself exits with status 1.
    """


app.command("compile")(compile_command)
app.command("run")(run_command)
app.command("inspect")(inspect_command)
app.command("passes")(passes_command)
app.command("opt")(opt_command)
app.command("diff")(diff_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    with contextlib.suppress(ValueError):  # signals can be set in the main thread only
        signal.signal(signal.SIGTERM, _terminated)
    status = run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = _broken_pipe()
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    options.settings.debug = False
    try:
        status = app(args=list(arguments), prog_name="llmc", standalone_mode=False)
    except LlmcError as error:
        return _error(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _broken_pipe()
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line
        return _bug(error)
    return status if isinstance(status, int) else 0


def _error(error: LlmcError) -> int:
    if options.settings.debug:
        traceback.print_exception(error)
    print(f"error: {error.message}", file=sys.stderr)
    if error.excerpt:
        print(error.excerpt, file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return EXIT_ERROR


def _bug(error: Exception) -> int:
    if options.settings.debug:
        traceback.print_exception(error)
    text = str(error).strip().partition("\n")[0]
    print(f"error: llmc failed unexpectedly: {type(error).__name__}{': ' if text else ''}{text}", file=sys.stderr)
    if not options.settings.debug:
        print("hint: this is a bug in llmc; please report it with what --debug shows", file=sys.stderr)
    return EXIT_BUG


def _broken_pipe() -> int:
    # Python flushes standard output once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PIPE


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """End as if by an exception, so that unfinished folders are removed."""
    raise SystemExit(EXIT_TERMINATED)
