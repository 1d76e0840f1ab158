"""`llmc`: the commands."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from llmc.cli import options
from llmc.cli.bench_command import bench_command
from llmc.cli.compile_command import compile_command
from llmc.cli.diff_command import diff_command
from llmc.cli.eval_command import eval_app
from llmc.cli.export_command import export_command
from llmc.cli.failures import guarded
from llmc.cli.inspect_command import inspect_command
from llmc.cli.lift_command import lift_command
from llmc.cli.new_command import new_command
from llmc.cli.ops_command import ops_command
from llmc.cli.opt_command import opt_command
from llmc.cli.passes_command import passes_command
from llmc.cli.run_command import run_command
from llmc.cli.targets_command import targets_command
from llmc.cli.trace_command import trace_command
from llmc.cli.usage import NamingGroup, strict
from llmc.cli.verify_command import verify_command
from llmc.cli.view_command import view_command

app = typer.Typer(
    name="llmc",
    cls=NamingGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
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
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are


app.command("compile", cls=strict("the engine's folder goes after -o"))(guarded(compile_command))
app.command("run", cls=strict("prompts go after --prompt, in quotes if they have spaces"))(guarded(run_command))
app.command("lift", cls=strict("the file to write goes after -o"))(guarded(lift_command))
app.command("inspect", cls=strict("inspect one thing at a time"))(guarded(inspect_command))
app.command("verify", cls=strict("what to compare with goes after --against"))(guarded(verify_command))
app.command("trace", cls=strict("give two things to compare; the prompt goes after --prompt, in quotes"))(
    guarded(trace_command)
)
app.add_typer(eval_app, name="eval")
app.command("bench", cls=strict("numbers go after --batch, --input and --output"))(guarded(bench_command))
app.command("passes", cls=strict("name one pass, or none"))(guarded(passes_command))
app.command("ops", cls=strict("name one op, or none"))(guarded(ops_command))
app.command("targets", cls=strict("name one target, or none"))(guarded(targets_command))
app.command("opt", cls=strict("passes go after --passes, the file to write after -o"))(guarded(opt_command))
app.command("export", cls=strict("the folder to write goes after -o"))(guarded(export_command))
app.command("new", cls=strict("the folder to write goes after -o"))(guarded(new_command))
app.command("diff", cls=strict("two graphs are compared"))(guarded(diff_command))
app.command("view", cls=strict("one graph is drawn, or two are compared"))(guarded(view_command))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    with contextlib.suppress(ValueError):  # signals can be set in the main thread only
        signal.signal(signal.SIGTERM, _terminated)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options.settings.debug, options.settings.arguments = False, tuple(given)
    app(args=given, prog_name="llmc")
    sys.exit(0)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """End as if by an exception, so that unfinished folders are removed."""
    raise SystemExit(128 + signal.SIGTERM)
