"""Runs of ops as programs of kernels, which lowered graphs call."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from compiler.ir.op import Op
from runtime.executors.cpu.access import StepAccess
from runtime.executors.cpu.emission import Arrival, Departure, Emission
from runtime.executors.cpu.library import Library
from runtime.executors.cpu.plans import Plans
from runtime.executors.torch.lowering import Fusion, Lowering


def segment_fusions(plans: Plans, library: Library, threads: int) -> list[Fusion]:
    """A fusion for each run of ops that kernels compute."""
    return [_fusion(plans, library, threads, ops) for ops in plans.segments()]


def _fusion(plans: Plans, library: Library, threads: int, ops: tuple[Op, ...]) -> Fusion:
    def lines(state: Lowering) -> Iterable[str]:
        emission = Emission(library, plans, state, ops, threads)
        segment = Segment(emission, threads)
        held = state.hold(f"{ops[0].name}.kernels", segment)
        given = ", ".join(state.ref(arrival.value) for arrival in segment.arrivals)
        results = "".join(f"{state.ref(departure.value)}, " for departure in segment.departures)
        yield f"{results and f'{results}= '}{held}(writes, {given})"
        for name, pool in emission.updated.items():
            if name in state.graph.users or name in {value.name for value in state.graph.outputs.values()}:
                yield f"{state.ref(state.graph.value(name))} = {state.ref(pool)}"

    return Fusion("kernels", ops, lines)


class Segment:
    """A program of kernels, called with the tensors that it reads.

    Attributes:
        arrivals: what it is given, in order.
        departures: what it gives, in order.
    """

    def __init__(self, emission: Emission, threads: int) -> None:
        self.arrivals: Sequence[Arrival] = (*emission.arrivals.values(),)
        self.departures: Sequence[Departure] = (*emission.departures,)
        self._program = emission.builder.build()
        self._threads = threads
        self._fixed = emission.fixed
        self._lock = threading.Lock()  # of the arena, and of the addresses
        pointers = self._program.pointers
        places = {name: at for at, name in enumerate(pointers)}
        self._addresses = (ctypes.c_void_p * max(1, len(pointers)))()
        for name, tensor in self._fixed.items():
            self._addresses[places[name]] = tensor.data_ptr()
        self._given = [(places[name], arrival) for name, arrival in emission.arrivals.items()]
        made = dict.fromkeys(departure.pointer for departure in self.departures)
        self._made = [*made]
        self._made_at = [places[name] for name in made]
        self._spans, self._tables = places.get(Emission.SPANS), places.get(Emission.TABLES)

    def measure(self) -> None:
        """Measure from now on how long each op takes."""
        self._program.measure()

    def times(self) -> Iterator[tuple[str, float]]:
        """Each op for a reader, with the seconds that it has taken since `measure` was called."""
        yield from zip(self._program.kernels, self._program.times(), strict=True)

    def __call__(self, access: StepAccess, *arrived: Tensor) -> tuple[Tensor, ...]:
        """Run the program for a step; pools that arrive are changed in place."""
        addresses, sizes = self._addresses, access.sizes
        kept = []  # until the program has run
        with self._lock:
            for (at, arrival), tensor in zip(self._given, arrived, strict=True):
                if arrival.form is not None:
                    _check(tensor, arrival, sizes[arrival.form.size])
                    tensor = _as_rows(tensor, arrival.form.axis)
                    kept.append(tensor)
                addresses[at] = tensor.data_ptr()
            if self._spans is not None:
                addresses[self._spans] = access.spans.data_ptr()
            if self._tables is not None:
                addresses[self._tables] = access.tables.data_ptr()
            memory: dict[str, Tensor] = {}
            results = []
            for departure in self.departures:
                form, pointer = departure.form, departure.pointer
                if pointer not in memory:
                    memory[pointer] = torch.empty(sizes[form.size] * form.columns, dtype=departure.dtype)
                results.append(_as_value(memory[pointer], departure, sizes[form.size]))
            for pointer, at in zip(self._made, self._made_at, strict=True):
                addresses[at] = memory[pointer].data_ptr()
            self._program.run_at(sizes, addresses, self._threads)
        return tuple(results)


def _check(tensor: Tensor, arrival: Arrival, rows: int) -> None:
    """ValueError if a tensor is not what kernels will read: rules of plug-ins may give anything."""
    form = arrival.form
    assert form is not None
    wanted = form.others if form.axis is None else (*form.others[: form.axis], rows, *form.others[form.axis :])
    if tensor.shape != wanted or tensor.dtype is not arrival.dtype:
        found, right = ([*each] for each in (tensor.shape, wanted))
        raise ValueError(f"%{arrival.value.name} is {tensor.dtype} {found}, not {arrival.dtype} {right}")


def _as_rows(tensor: Tensor, axis: int | None) -> Tensor:
    """A tensor whose memory has the rows of tokens one after the other."""
    if axis:
        tensor = tensor.movedim(axis, 0)
    return tensor.contiguous()


def _as_value(flat: Tensor, departure: Departure, rows: int) -> Tensor:
    """Memory of rows, as the value that it holds."""
    form = departure.form
    if form.axis is None:
        return flat.view(form.others)
    return flat.view(rows, *form.others).movedim(0, form.axis)
