"""`llmc eval`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.errors import RequestError
from compiler.text_files import TextFile, decode_text, read_text
from llmc.cli import options
from llmc.cli.console import Console, note, table
from llmc.cli.failures import guarded
from llmc.cli.harness_command import harness_command
from llmc.cli.summarize_command import summarize_command
from llmc.cli.usage import NamingGroup, strict

if TYPE_CHECKING:
    from llmc.evaluation.perplexity import Perplexity

eval_app = typer.Typer(cls=NamingGroup, no_args_is_help=True, rich_markup_mode=None)


@eval_app.callback()
def _eval() -> None:
    """Measure how good a model is."""


def ppl_command(
    model: Annotated[str, typer.Argument(help="An engine directory, or a checkpoint: a folder or an id of the hub.")],
    text: Annotated[str, typer.Option(metavar="FILE", help="The text to score, in UTF-8; -: standard input.")],
    window: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens a window; the model's context length if not given, at most 512."),
    ] = None,
    stride: Annotated[
        str, typer.Option(metavar="none", help="How windows overlap; only none is supported: they do not.")
    ] = "none",
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Another engine or checkpoint, to compare the distributions with."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="What checkpoints are computed in; float32 if not given.")
    ] = None,
    no_special_tokens: options.NoSpecialTokens = False,
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto, cpu, cuda, torch, tensorrt, emulator or interpreter, as for llmc run."
        ),
    ] = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    no_verify: options.NoVerify = False,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure the perplexity of a model on a text: how well it predicts each token from those before.

    The text is cut into windows that do not overlap. Each begins with no history, and every token but its first is
    scored. With --against, the mean KL divergence from the other model's distributions, and how often both prefer the
    same token, are measured, too: what a quantized model has lost.

    \b
    llmc eval ppl my.engine --text val.txt
    llmc eval ppl my.engine --text val.txt --against my-checkpoint --json
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    import llmc

    if stride != "none":
        raise RequestError(f"there is no stride {stride!r}; windows do not overlap", hint="leave --stride out")
    content = _read(text)
    notes = [said] if (said := content.note(text)) else []
    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        result = llmc.measure_perplexity(
            model,
            content.text,
            window=window,
            against=against,
            dtype=dtype,
            add_special_tokens=not no_special_tokens,
            executor=executor,
            device=device,
            threads=threads,
            check_files=not no_verify,
            progress=console,
            note=notes.append,
        )
    if not quiet:
        for sentence in notes:
            note(sentence)
    said_too = {"notes": notes} if notes else {}
    print(json.dumps({**result.to_json(), **said_too}) if json_output else table(_rows(result)))


eval_app.command("ppl", cls=strict("the text goes after --text"))(guarded(ppl_command))
eval_app.command("summarize", cls=strict("the articles go after --dataset"))(guarded(summarize_command))
eval_app.command("harness", cls=strict("tasks go after --tasks, with commas"))(guarded(harness_command))


def _read(file: str) -> TextFile:
    """The text in a file, or `-`, standard input; RequestError if it cannot be read, is not UTF-8, or is empty."""
    if file == "-":
        content = decode_text(sys.stdin.buffer.read(), "standard input", RequestError)
    else:
        content = read_text(file, RequestError, what="the text in")
    if not content.text:
        raise RequestError(f"{'standard input' if file == '-' else file} is empty", hint="give a text to score")
    return content


def _rows(result: Perplexity) -> list[tuple[str, str]]:
    rows = [
        ("perplexity", f"{result.ppl:.4f}"),
        ("tokens", f"{result.tokens:,} scored"),
        ("nll", f"{result.nll:.6f} nats per token"),
    ]
    if result.kl is not None and result.agreement is not None:
        rows += [
            ("KL divergence", f"{result.kl:.3e} nats per token"),
            ("agreement", f"{result.agreement:.2%} of tokens"),
        ]
    return rows
