"""`llmc verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli import options
from llmc.cli.console import Console, note, table
from llmc.cli.prompts import gather_prompts
from llmc.cli.ranks import needs_ranks, on_ranks
from runtime.processes.environment import rank_from_environment

if TYPE_CHECKING:
    from compiler.progress import Progress
    from llmc.verification.report import Divergence, Run, Verification
    from runtime.generation.engine import Engine


def verify_command(
    engine: Annotated[Path, typer.Argument(help="An engine directory, as llmc compile writes it.")],
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A checkpoint or an engine to compare with; the engine's own graph if not."),
    ] = None,
    prompt: options.Prompts = None,
    prompt_ids: options.PromptIds = None,
    prompts: Annotated[int, typer.Option(metavar="N", help="How many random prompts, if none is given.")] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="What random prompts are drawn from.")] = 0,
    no_special_tokens: options.NoSpecialTokens = False,
    max_new_tokens: options.MaxNewTokens = 16,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="X", help="The relative error of logits that passes; derived from the type if not given."),
    ] = None,
    plans: Annotated[
        str,
        typer.Option(
            metavar="all|default",
            help="Try every TensorRT plan of the engine, one by one, or only those that the prompts happen to need.",
        ),
    ] = "all",
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What runs the engine, as for llmc run; auto emulates TensorRT plans where none run."
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
    """Check that an engine computes what its graph, or with --against the checkpoint, says.

    The engine extends prompts, each alone and all in one batch; logits and tokens are compared with a reference that
    interprets the graph. Without --against this checks what executes the graph, with it the graph and the weights,
    too. The plans of a TensorRT engine are then tried one by one: those for single tokens in all of their rows, those
    for prompts on a long one. If the engine fails, the first operation that differs is named.

    An engine of several ranks runs on all of them, and each plan is tried on all ranks at once.

    The exit status is 0 if the engine is right, 1 if it is not, 2 if it could not be tried.

    \b
    llmc verify my.engine
    llmc verify my.engine --against my-checkpoint
    llmc verify my.engine --plans default
    """  # noqa: D301 - \b is a backspace, which keeps lines as they are
    from llmc.verification.verify import check_against, check_wishes, verify

    what: Any = {
        "prompts": gather_prompts(prompt or (), (), prompt_ids or ()),
        "random": prompts, "seed": seed, "max_new_tokens": max_new_tokens, "tolerance": tolerance, "plans": plans,
        "add_special_tokens": not no_special_tokens,
    }  # fmt: skip
    how: Any = {"executor": executor, "device": device, "threads": threads}
    if rank_from_environment() == 0:
        check_wishes(prompts, seed, max_new_tokens, tolerance, plans)
        check_against(against)

    def show(result: Verification) -> None:
        if json_output:
            print(json.dumps(result.to_json(), indent=2))
        elif not quiet:
            for text in result.notes:
                note(text)
            print(_text(result))

    with Console(quiet=quiet or json_output, bars_only=json_output) as console:
        if needs_ranks(engine):
            notes: list[str] = []
            how |= {"emulate": True, "verify": not no_verify, "note": notes.append, "progress": console}
            on_ranks(
                engine, lambda loaded: _verify_loaded(loaded, against, {**what, "notes": notes}, show, console), **how
            )
            return
        result = verify(engine, against, check_files=not no_verify, progress=console, **what, **how)
    show(result)
    raise typer.Exit(0 if result.holds else 1)


def _verify_loaded(
    loaded: Engine, against: str | None, what: Any, show: Callable[[Verification], None], progress: Progress
) -> None:
    from llmc.verification.verify import verify_loaded

    result = verify_loaded(loaded, against, progress=progress, **what)
    show(result)
    if not result.holds:
        sys.stdout.flush()
        print("error: the engine does not compute what the reference says", file=sys.stderr)
        raise typer.Exit(1)


def _text(result: Verification) -> str:
    head = table(
        [
            ("engine", f"{result.engine}, run by {result.executor}"),
            ("reference", result.reference),
            ("tolerance", _tolerance(result)),
            *([("plans", f"all {len(result.plans)}, one by one")] if result.plans else []),
        ]
    )
    differences = [line for run in result.runs for line in _differences(run)]
    parts = [head, _runs(result), "\n".join(differences), _verdict(result)]
    if result.divergence:
        parts.append(_divergence(result.divergence))
    return "\n\n".join(part for part in parts if part)


def _tolerance(result: Verification) -> str:
    largest = max(run.tolerance for run in result.runs)
    more = f"; up to {largest:.1e} for activations or caches in 8 bits" if largest > result.tolerance else ""
    return f"{result.tolerance:.1e} of the logits' RMS ({result.dtype}){more}"


def _runs(result: Verification) -> str:
    width = max(5, *(len(_mode(run)) for run in result.runs))
    lines = [f"{'prompt':>6}  {'tokens':>6}  {'run':{width}}  {'logits error':>12}  tokens equal"]
    for run in result.runs:
        count = f"{run.equal} of {len(run.token_ids)}"
        lines.append(f"{run.prompt:>6}  {run.prompt_tokens:>6}  {_mode(run):{width}}  {run.error:>12.1e}  {count}")
    return "\n".join(lines)


def _mode(run: Run) -> str:
    """What ran; of several ranks also the one that is worse than the first."""
    return run.mode + (f", rank {run.rank}" if run.rank else "")


def _differences(run: Run) -> list[str]:
    """The first tie of a run, and the first difference that is none."""
    ties = [difference for difference in run.differences if difference.tie]
    return [
        f"prompt {run.prompt} ({_mode(run)}), new token {first.step + 1}: {first.token}, where the reference prefers "
        f"{first.reference} by {first.gap:.1e} of the logits' RMS: {meaning}"
        for first, meaning in (
            *((tie, "a tie within rounding") for tie in ties[:1]),
            *((failure, "more than rounding") for failure in run.failures[:1]),
        )
    ]


def _verdict(result: Verification) -> str:
    ties = sum(difference.tie for run in result.runs for difference in run.differences)
    tied = f" ({ties} tie{'s' * (ties != 1)} within rounding)" if ties else ""
    return (
        f"{'holds' if result.holds else 'DOES NOT HOLD'}: logits differ by up to {result.error:.1e}, "
        f"{result.tokens_equal} of {result.tokens} tokens equal{tied}"
    )


def _divergence(divergence: Divergence) -> str:
    came = f" from {divergence.origin}" if divergence.origin else ""
    shapes = str(list(divergence.shape))
    if divergence.shape != divergence.reference_shape:
        shapes += f", the reference {list(divergence.reference_shape)}"
    return table(
        [
            ("first at", f"{divergence.kind} %{divergence.op}{came}"),
            ("between", divergence.found),
            *([("plan", divergence.plan)] if divergence.plan else []),
            ("step", f"{divergence.step} ({'the prompt' if divergence.step == 0 else 'a new token'})"),
            ("error", f"{divergence.error:.1e}; of its operands {divergence.operands_error:.1e}"),
            ("shape", shapes),
        ]
    )
