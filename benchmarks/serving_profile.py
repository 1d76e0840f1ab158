"""Where the time of serving in flight goes: the host by parts, the GPU, what was compiled and captured."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from serving_load import Lengths, load_of
from serving_ways import Way

from compiler.ir.packed_step import PackedStep
from runtime.executors.interface import WholeSession
from runtime.executors.paged import WholePagedSession
from runtime.executors.torch.paged_session import ProgramPools
from runtime.generation import in_flight
from runtime.generation.block_steps import BlockSteps
from runtime.generation.engine import Engine
from runtime.generation.in_flight import InFlightBatch
from runtime.generation.row_steps import RowSteps
from runtime.generation.scheduler import Scheduler

_REST, _SESSION, _CLIENT = "the rest of a step", "the rest of the session", "the client"


class Clock:
    """Measures how long each part of the host's work takes, without the parts that it calls.

    Attributes:
        seconds: of each part.
        calls: how often each was entered.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside: list[str] = [_CLIENT]
        self._since = time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts as that of a part."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            self._turn()
            self._inside.append(part)
            self.calls[part] += 1
            try:
                return function(*arguments, **options)
            finally:
                self._turn()
                self._inside.pop()

        return call


def _parts() -> list[tuple[Any, str, str]]:
    """What is measured: an owner, a name of it, and the part whose time it is."""
    parts: list[tuple[Any, str, str]] = [
        (Engine, "submit", "taking up requests"),
        (InFlightBatch, "step", _REST),
        (InFlightBatch, "_append", "taking up tokens"),
        (Scheduler, "plan", "planning"),
        (Scheduler, "end", "planning"),
        (BlockSteps, "_logits", "tensors of a step"),
        (BlockSteps, "begin", "tensors of a step"),
        (BlockSteps, "go_on", "tensors of a step"),
        (RowSteps, "_logits", "tensors of a step"),
        (WholeSession, "step", _SESSION),
        (WholePagedSession, "step", _SESSION),
        (PackedStep, "check", "checking a step"),
        (ProgramPools, "_run", "launching kernels one by one"),
        (in_flight, "choose", "choosing tokens, and waiting for logits"),
    ]
    try:
        from runtime.executors.cuda import static_steps, step_graphs
        from runtime.executors.cuda.kernels.addresses import Addresses
        from runtime.executors.cuda.session import CudaPagedSession
    except ImportError:
        return parts
    return [
        *parts,
        (Addresses, "of", "addresses"),
        (CudaPagedSession, "step_ahead", _SESSION),
        (static_steps.StaticStep, "fill", "copying a step to the GPU"),
        (step_graphs.StepGraphs, "_capture", "capturing"),
        (step_graphs.ChosenTokens, "wait", "waiting for tokens"),
        (torch.cuda.CUDAGraph, "replay", "launching graphs"),
    ]


@dataclass
class StepKind:
    """Steps of a kind: how many there were, their seconds and their tokens."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0


@dataclass
class Turn:
    """What a turn has shown.

    Attributes:
        seconds: how long it took.
        served: how many new tokens the requests got.
        kinds: the steps of each kind.
        clock: the parts of the host's work.
        compiled: how often each kernel was compiled.
        compiling: how many seconds that took.
        busy: how many seconds a kernel ran on the GPU; None if that was not measured.
        kernels: the seconds of each kernel.
    """

    seconds: float = 0.0
    served: int = 0
    kinds: dict[str, StepKind] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    compiled: Counter[str] = field(default_factory=Counter)
    compiling: float = 0.0
    busy: float | None = None
    kernels: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """The turn as a JSON object."""
        return {
            "seconds": self.seconds, "new_tokens": self.served, "gpu_busy_s": self.busy,
            "steps": {name: vars(kind) for name, kind in self.kinds.items()},
            "host_s": {part: round(seconds, 4) for part, seconds in self.clock.seconds.most_common()},
            "calls": self.clock.calls, "compiled": self.compiled, "compiling_s": round(self.compiling, 3),
            "kernels_s": {name: round(seconds, 4) for name, seconds in self.kernels.most_common(20)},
        }  # fmt: skip

    def lines(self, title: str) -> Iterator[str]:
        """The turn for a reader."""
        rate = self.served / self.seconds
        yield f"{title}: {self.served} tokens in {self.seconds:.2f} s, {rate:.0f} a second"
        compiled = ", ".join(f"{count} x {name}" for name, count in self.compiled.most_common())
        yield f"  compiled: {self.compiled.total()} kernels in {self.compiling:.1f} s ({compiled or 'none'})"
        for name, kind in sorted(self.kinds.items()):
            each = kind.seconds / kind.steps * 1e3
            yield (
                f"  steps, {name}: {kind.steps}, {kind.seconds:.2f} s in all, {each:.2f} ms and "
                f"{kind.tokens / kind.steps:.1f} tokens each"
            )
        steps = sum(kind.steps for kind in self.kinds.values())
        for part, seconds in self.clock.seconds.most_common():
            yield f"  host, {part}: {seconds:.3f} s, {seconds / max(1, steps) * 1e6:.0f} us a step"
        if self.busy is not None:
            yield f"  the GPU is busy for {self.busy:.2f} s of {self.seconds:.2f}: {self.busy / self.seconds:.0%}"
        for name, seconds in self.kernels.most_common(14):
            yield f"  GPU, {seconds:7.3f} s  {name[:90]}"


def profile(way: Way, engine: Engine, count: int, rate: float, lengths: Lengths) -> Iterator[tuple[str, Turn]]:
    """Serve three loads: the first may compile and capture, the last is measured on the GPU as well.

    Args:
        way: what serves them, in flight.
        engine: llmc's engine.
        count: how many requests a load has.
        rate: how many come per second.
        lengths: of prompts and outputs.
    """
    gpu = torch.cuda.is_available()
    for at, title in enumerate(("first turn", "second turn", "third turn, under torch's profiler")):
        load = load_of(count, engine.manifest.vocab_size, rate, lengths, seed=2000 + at)
        turn = Turn()
        with _watched(turn), _gpu_time(turn) if gpu and at == 2 else nullcontext():
            turn.seconds = way.serve(load)
        turn.served = sum(len(request.tokens) for request in load)
        yield title, turn


@contextmanager
def _watched(turn: Turn) -> Iterator[None]:
    """Measure the parts of the host's work, count steps by kind, and see what is compiled."""
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        kept = vars(owner)[name]
        replaced.append((owner, name, kept))
        static = isinstance(kept, classmethod)
        wrapped = wrap(kept.__func__ if static else kept)
        setattr(owner, name, classmethod(wrapped) if static else wrapped)

    turn.clock = Clock()
    try:
        for owner, name, part in _parts():
            replace(owner, name, functools.partial(turn.clock.timed, part))
        replace(InFlightBatch, "step", lambda step: _counted(turn, step))
        with _compilations(turn):
            yield
    finally:
        for owner, name, kept in reversed(replaced):
            setattr(owner, name, kept)


def _counted(turn: Turn, step: Callable[..., Any]) -> Callable[..., Any]:
    """A batch's step, which counts what kind it was."""

    def call(batch: InFlightBatch) -> Any:
        calls, compiled = turn.clock.calls.copy(), turn.compiled.total()
        prompts, tokens = batch.timings.prefill_seconds, batch.timings.prefill_tokens + batch.timings.decode_tokens
        start = time.perf_counter()
        updates = step(batch)
        seconds = time.perf_counter() - start
        done = turn.clock.calls - calls
        what = ["with prompts" if batch.timings.prefill_seconds > prompts else "single tokens"]
        what += [words for part, words in _MARKS.items() if done[part]]
        what += ["kernels compiled"] if turn.compiled.total() > compiled else []
        kind = turn.kinds.setdefault(", ".join(what), StepKind())
        kind.steps += 1
        kind.seconds += seconds
        kind.tokens += batch.timings.prefill_tokens + batch.timings.decode_tokens - tokens
        return updates

    return call


_MARKS = {
    "launching kernels one by one": "one by one",
    "capturing": "captured now",
    "launching graphs": "as a graph",
}
"""The parts that tell how a step ran, and how that is called."""


def _compilations(turn: Turn) -> AbstractContextManager[None]:
    try:
        import triton
    except ImportError:
        return nullcontext()
    return _hooked(turn, triton.knobs.runtime)


@contextmanager
def _hooked(turn: Turn, knobs: Any) -> Iterator[None]:
    """Count what Triton compiles, or reads from its cache on disk."""
    begun: list[float] = []

    def before(**_: Any) -> None:
        begun.append(time.perf_counter())

    def after(*, fn: Any, **_: Any) -> None:
        turn.compiling += time.perf_counter() - begun.pop()
        turn.compiled[fn.name.rpartition(".")[2]] += 1

    kept = knobs.jit_cache_hook, knobs.jit_post_compile_hook
    knobs.jit_cache_hook, knobs.jit_post_compile_hook = before, after
    try:
        yield
    finally:
        knobs.jit_cache_hook, knobs.jit_post_compile_hook = kept


@contextmanager
def _gpu_time(turn: Turn) -> Iterator[None]:
    """Measure how long some kernel or copy was running on the GPU, and how long each kernel did."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    with torch_profile(activities=[ProfilerActivity.CUDA]) as found:
        yield
        torch.cuda.synchronize()
    events = [
        (event.start_ns(), event.start_ns() + event.duration_ns(), event.name())
        for event in found.profiler.kineto_results.events()
        if event.device_type() == DeviceType.CUDA and event.duration_ns()
    ]
    busy, until = 0, 0
    for start, end, name in sorted(events):
        busy += max(0, end - max(start, until))
        until = max(until, end)
        turn.kernels[name] += (end - start) / 1e9
    turn.busy = busy / 1e9
