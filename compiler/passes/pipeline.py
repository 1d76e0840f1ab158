"""Running passes one after the other: checked, timed, and written down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from compiler.errors import GraphError, PassError, PluginError, WeightsGoneError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.derived_facts import with_derived_facts
from compiler.ir.files import write_graph
from compiler.ir.graph import Graph
from compiler.ir.mesh import check_stages
from compiler.ir.paged_layout import layout_of
from compiler.ir.running_pass import running
from compiler.ir.step_interface import check_step, is_step
from compiler.ir.trace import Trace
from compiler.ir.verifier import verify as verify_graph
from compiler.passes.grammar import canonical, parse_pipeline, spell
from compiler.passes.notes import gathered_notes
from compiler.passes.protocol import Pass, default_name, has_dry_run, maker_of
from compiler.passes.registry import info_of
from compiler.plugins import blamed, is_own, place_of


@dataclass(frozen=True)
class PassRun:
    """One run of a pass: how long it took, and how many ops it was given and left.

    Attributes:
        name: the pass's name.
        spelling: its canonical spelling.
        seconds: the time it took, without verification and dumps.
        checking: seconds that verification and dumps of what it left took.
        ops_before: how many ops it was given.
        ops_after: how many it left.
    """

    name: str
    spelling: str
    seconds: float
    ops_before: int
    ops_after: int
    checking: float = 0.0


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made.

    Attributes:
        graph: the last pass's graph.
        timings: one entry per pass, in order.
        canonical: the pipeline's canonical spelling.
        notes: what passes told the user, each sentence after the pass's spelling.
    """

    graph: Graph
    timings: tuple[PassRun, ...]
    canonical: str
    notes: tuple[str, ...] = ()


OnPass = Callable[[str, int, int], None]


def run_pipeline(
    graph: Graph,
    passes: str | Iterable[Pass],
    *,
    dump_dir: str | os.PathLike[str] | None = None,
    on_pass: OnPass | None = None,
    trace: Trace | None = None,
    verify: bool = True,
    dry_run: bool = False,
    fold_layers: bool = False,
) -> PipelineResult:
    """Apply passes to a graph, in order. Facts that follow from the graph, such as the number of parameters, follow it.

    Args:
        graph: the graph; it is not changed.
        passes: the passes, or the text of a pipeline.
        dump_dir: a folder, made if it is missing, for the graph's text before the first pass (`00-lift.ir`) and after
            each one (`01-dtype.ir` ...).
        on_pass: called as `on_pass(spelling, index, count)` before each pass, the first with index 0.
        trace: where rules record what they did.
        verify: whether to verify the graph before the first pass and after each one, and that a step stays one.
        dry_run: whether passes that calibrate are replaced by what their `dry_run` makes without data.
        fold_layers: whether dumps leave out layers that are as others; they are no graphs then, but for readers.

    Raises:
        GraphError: if a pass leaves an invalid graph, or a model's step in a form that nothing runs, or cannot make the
            ops it wants; it names the pass and the rule.
        PassError: if the pipeline is misspelt, a pass does not apply to the graph, or returns no graph.
        PluginError: if a pass that is not llmc's own raises anything else.
    """
    steps: Sequence[Pass] = parse_pipeline(passes) if isinstance(passes, str) else tuple(passes)
    dump = _Dump(dump_dir, fold_layers)
    dump.write(graph, "lift")
    if verify:
        _verify(graph, "the graph is invalid before any pass")
    done: list[PassRun] = []
    notes: list[str] = []
    with trace.active() if trace else nullcontext():
        for i, step in enumerate(steps):
            spelling = spell(step)
            if on_pass:
                on_pass(spelling, i, len(steps))
            given, start = graph, time.perf_counter()
            with gathered_notes() as said:
                graph = apply_pass(step, given, dry_run=dry_run)
            seconds = time.perf_counter() - start
            if graph is given and not said and not is_own(maker_of(step)):
                said.append("it changed nothing in this graph")
            notes += [f"{spelling}: {text}" for text in said]
            graph = with_derived_facts(given, graph)
            start = time.perf_counter()
            dump.write(graph, pass_name(step))
            if verify:
                _verify(graph, f"the pass {spelling!r} left an invalid graph")
                _verify_step(graph, given, spelling)
            checking = time.perf_counter() - start
            done.append(PassRun(pass_name(step), spelling, seconds, len(given.ops), len(graph.ops), checking))
    return PipelineResult(graph, tuple(done), canonical(steps), tuple(notes))


def apply_pass(step: Pass, graph: Graph, *, dry_run: bool = False) -> Graph:
    """What one pass makes of a graph, if it applies.

    Args:
        step: the pass.
        graph: the graph.
        dry_run: whether its `dry_run` stands for a pass that calibrates.

    Raises:
        PassError: if the pass does not apply or returns no graph.
        PluginError: if a pass that is not llmc's own raises anything else; file and line are named.
        GraphError: if the pass breaks a rule of the IR; the pass is named.
        WeightsGoneError: if it reads weights that are not there; the pass and the op are named.
    """
    failing = f"the pass {pass_name(step)!r}"
    maker = maker_of(step)
    if has_dry_run(step) and layout_of(graph) != LINEAR:
        raise PassError(
            f"{failing} calibrates, for which caches must be linear; they are paged", hint="put cache=paged behind it"
        )
    try:
        with running(pass_name(step)), blamed(maker, failing):
            requires = getattr(step, "requires", None)
            if requires is not None:
                requires(graph)
            apply = getattr(step, "dry_run", step) if dry_run else step
            result: object = apply(graph)
    except WeightsGoneError as error:
        raise WeightsGoneError(f"{failing} needs weights: {error.message}", hint=error.hint) from error
    except (GraphError, PluginError) as error:
        if error.message.startswith(failing):
            raise
        message = f"{failing} fails: {error.message}"
        raise type(error)(message, hint=error.hint, excerpt=error.excerpt) from error
    if not isinstance(result, Graph):
        what = "None" if result is None else f"a {type(result).__name__}"
        raise PassError(
            f"{failing} fails: it returned {what}, not a graph ({place_of(maker)})", hint="a pass ends in: return graph"
        )
    return result


def pass_name(step: Pass) -> str:
    """The name that a pass is registered under; its own if it is not registered."""
    info = info_of(step)
    return info.name if info else default_name(maker_of(step))


def _verify(graph: Graph, blame: str) -> None:
    try:
        verify_graph(graph)
        check_stages(graph)
    except GraphError as error:
        raise GraphError(f"{blame}: {error.message}", hint=error.hint, excerpt=error.excerpt) from error


def _verify_step(graph: Graph, given: Graph, spelling: str) -> None:
    """A pass that was given a step leaves one: otherwise nothing could run it."""
    if not is_step(given):
        return
    try:
        check_step(graph, before=given)
    except GraphError as error:
        raise GraphError(
            f"the pass {spelling!r} left a graph that is no model's step any more: {error.message}", hint=error.hint
        ) from error


class _Dump:
    """Numbered files in a folder; nothing, without one."""

    def __init__(self, folder: str | os.PathLike[str] | None, fold_layers: bool) -> None:
        self.fold_layers = fold_layers
        self.folder = None if folder is None else Path(folder)
        self.count = 0

    def write(self, graph: Graph, name: str) -> None:
        """Write the next file. The pass's name may be anything if it is not registered."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PassError(f"cannot make the folder {self.folder} for dumps: {error.strerror}") from None
        safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
        # A relative root would be read as relative to the dump.
        rooted = replace(graph, root=str(Path(graph.root).absolute()))
        write_graph(rooted, self.folder / f"{self.count:02d}-{safe}.ir", fold_layers=self.fold_layers)
        self.count += 1
