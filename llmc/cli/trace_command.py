"""`llmc trace`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.errors import RequestError
from llmc.cli import options
from llmc.cli.console import Console, grid, note, table
from llmc.cli.output_file import check_output
from llmc.cli.prompts import gather_prompts

if TYPE_CHECKING:
    from llmc.tracing.report import Comparison, Parting, ValueTrace
    from llmc.tracing.statistics import Statistics

_SHOWN = 6


def trace_command(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="An .ir file, an engine, a checkpoint, or transformers:CHECKPOINT, run by transformers."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; errors are measured against it.")],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What both run on; 16 random tokens if not given.")
    ] = None,
    prompt_ids: Annotated[str | None, typer.Option(metavar="IDS", help="The same as token ids, such as 1,2,3.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="What random tokens are drawn from.")] = 0,
    no_special_tokens: options.NoSpecialTokens = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="The relative error of a value that passes; derived from types and depth if not given."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="What transformers computes in.")] = "float32",
    dummy_weights: Annotated[
        bool, typer.Option("--dummy-weights", help="Make the weights of checkpoints up: config.json suffices.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every value that was compared.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", "-o", metavar="FILE", help="Draw the errors by depth: .png, .svg or .html.")
    ] = None,
    json_output: options.Json = False,
    plugin: options.Plugins = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run two models on the same tokens, and show the first operation at which they part.

    Values are matched by name, whatever passes made of the operations: fused, merged, quantized and sharded ones, too;
    those of transformers by the modules that weights come from. Engines are interpreted, on all of their ranks.

    The exit status is 0 if no value differs by more than rounding explains, 1 if one does, 2 if it could not be tried.

    \b
    llmc trace my.engine my-checkpoint --prompt "The function returns"
    llmc trace my-checkpoint transformers:my-checkpoint --plot depth.svg
    llmc trace dumps/00-lift.ir dumps/03-quant.ir --prompt-ids 1,2,3 --all
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.dtypes import dtype_name
    from llmc.pictures import check_plot
    from llmc.tracing.trace import check_wishes, trace

    check_wishes(seed, tolerance)
    check_plot(plot)
    check_output(plot)
    if prompt is not None and prompt_ids is not None:
        raise RequestError("there are two prompts", hint="give --prompt or --prompt-ids")
    given = gather_prompts([prompt] if prompt is not None else [], (), [prompt_ids] if prompt_ids is not None else [])
    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        result = trace(
            a,
            b,
            given[0] if given else None,
            tolerance=tolerance,
            seed=seed,
            dummy_weights=dummy_weights,
            dtype=dtype_name(dtype) or dtype,
            add_special_tokens=not no_special_tokens,
            progress=console,
        )
    if plot is not None:
        from llmc.tracing.plot import write_plot

        write_plot(result, plot, _text(result, every=every, wrap=False))
    if json_output:
        print(json.dumps(result.to_json(every=every), indent=2))
    elif not quiet:
        for text in result.notes:
            note(text)
        print(_text(result, every=every))
    raise typer.Exit(0 if result.agree else 1)


def _text(result: ValueTrace, *, every: bool, wrap: bool = True) -> str:
    parts = [table(_head(result), wrap=wrap), _depths(result, wrap)]
    if every:
        parts.append(_values(result, wrap))
    parts.append(_verdict(result, wrap))
    return "\n\n".join(part for part in parts if part)


def _head(result: ValueTrace) -> list[tuple[str, str]]:
    alone = [("only in A", result.only_a), ("only in B", result.only_b)]
    return [
        *zip("AB", (result.a, result.b), strict=True),
        ("tokens", str(len(result.token_ids))),
        ("tolerance", _tolerance(result)),
        ("compared", f"{len(result.comparisons)} values"),
        *((words, _names([site.name for site in sites])) for words, sites in alone if sites),
    ]


def _tolerance(result: ValueTrace) -> str:
    if result.tolerance is not None:
        return f"{result.tolerance:.1e}"
    limits = [each.tolerance for each in result.comparisons if not each.constant and each.tolerance]
    least, most = min(limits, default=0.0), max(limits, default=0.0)
    return f"{least:.1e} to {most:.1e} of a value's RMS, by depth ({result.dtype})"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)}: {shown}" + (", …" if len(names) > _SHOWN else "")


def _depths(result: ValueTrace, wrap: bool) -> str:
    from llmc.tracing.report import error_text

    rows = [
        (
            depth.words,
            error_text(depth.last.difference.error),
            error_text(depth.worst.difference.error),
            error_text(depth.worst.tolerance),
            f"%{depth.worst.a.name}",
        )
        for depth in result.depths
    ]
    return grid(("depth", "last value", "largest", "tolerance", "largest at"), rows, wrap=wrap)


def _values(result: ValueTrace, wrap: bool) -> str:
    from llmc.tracing.report import error_text

    rows = [
        (
            f"%{each.a.name}" + (f" | %{each.b.name}" if each.a.name != each.b.name else ""),
            error_text(each.difference.error) + (" !" if each.parts else ""),
            error_text(each.tolerance),
            f"{each.difference.largest:.3g}",
            f"{each.difference.cosine:.6f}",
            *(f"{side.rms:.4g}" for side in each.statistics),
        )
        for each in result.comparisons
    ]
    return grid(("value", "error", "tolerance", "difference", "cosine", "RMS of A", "RMS of B"), rows, wrap=wrap)


def _verdict(result: ValueTrace, wrap: bool) -> str:
    from llmc.tracing.report import error_text

    if result.parting is not None:
        return f"THEY PART at {result.parting.at.a}\n\n{_parting(result.parting, wrap)}"
    worst = max(result.comparisons, key=lambda each: each.difference.error)
    return f"they agree: values differ by up to {error_text(worst.difference.error)}, at %{worst.a.name}"


def _parting(parting: Parting, wrap: bool) -> str:
    from llmc.tracing.report import error_text

    at, apart = parting.at, parting.at.difference
    operands = [f"%{each.a.name} ({error_text(each.difference.error)})" for each in parting.operands]
    rows = [
        ("in B", str(at.b)),
        ("error", f"{error_text(apart.error)} of the RMS of B; {error_text(at.tolerance)} would pass"),
        ("operands", ", ".join(operands) or "none was compared"),
        *([("between", f"{_names(list(parting.between))}, without a counterpart")] if parting.between else []),
        ("difference", _difference(at)),
        ("cosine", f"{apart.cosine:.6f}"),
        ("shape", f"{list(at.shape)}, {at.a.type} in A, {at.b.type} in B"),
        *([("agree again", ", ".join(f"%{name}" for name in parting.again))] if parting.again else []),
    ]
    sides = [(name, *_statistics(each)) for name, each in zip("AB", at.statistics, strict=True)]
    return f"{table(rows, wrap=wrap)}\n\n{grid(('', 'largest', 'mean', 'RMS', 'not finite'), sides, wrap=wrap)}"


def _difference(at: Comparison) -> str:
    found: Any = at.difference.values
    if found is None:
        return "none"
    place = ",".join(map(str, at.difference.where))
    return f"up to {at.difference.largest:.4g}, at [{place}]: {found[0]:.6g} in A, {found[1]:.6g} in B"


def _statistics(side: Statistics) -> tuple[str, str, str, str]:
    return f"{side.largest:.4g}", f"{side.mean:.4g}", f"{side.rms:.4g}", str(side.not_finite)
