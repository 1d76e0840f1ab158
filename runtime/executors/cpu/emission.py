"""Making a program of kernels from a run of ops: where each value lies, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.ir.evaluators.quant import broadcast_blocks
from compiler.ir.op import Op, Value
from compiler.ir.torch_types import to_torch
from runtime.executors.cpu.forms import Form, the_form
from runtime.executors.cpu.library import Library
from runtime.executors.cpu.plans import Kernels, Left, Plan, Plans, Update, View, Views
from runtime.executors.cpu.program import Matrix, ProgramBuilder, Size
from runtime.executors.torch.lowering import Lowering


@dataclass(frozen=True)
class Arrival:
    """What a program is given.

    Attributes:
        value: the value.
        form: how it is a matrix; None for a pool, which is given as it is.
        dtype: the type of its elements.
    """

    value: Value
    form: Form | None
    dtype: torch.dtype


@dataclass(frozen=True)
class Departure:
    """What a program gives.

    Attributes:
        value: the value.
        form: how it is a matrix.
        dtype: the type of its elements.
        pointer: the name of its memory; values with the same are the same matrix.
    """

    value: Value
    form: Form
    dtype: torch.dtype
    pointer: str


class Emission:
    """A run of ops that becomes a program.

    Attributes:
        library: the kernels.
        builder: the program.
        state: what loads constants.
        threads: how many threads compute.
        plans: the plans of the graph's ops.
        arrivals: what the program is given, by the name of its memory.
        departures: what it gives.
        updated: the pools that it replaces in place, by the name of the result.
        fixed: memory that is the same in all steps, by its name: constants.
    """

    SPANS, TABLES = "spans", "tables"
    """The names of memory that says where a step's tokens are; see `runtime.executors.cpu.access.StepAccess`."""

    def __init__(self, library: Library, plans: Plans, state: Lowering, ops: Sequence[Op], threads: int) -> None:
        """Emit ops, all of which the plans have; weights are packed by so many threads."""
        self.threads = threads
        self.library, self.builder = library, ProgramBuilder(library)
        self.state, self.plans = state, plans
        self.arrivals: dict[str, Arrival] = {}
        self.departures: list[Departure] = []
        self.updated: dict[str, Value] = {}
        self.fixed: dict[str, Tensor] = {}
        self._matrices: dict[str, Matrix] = {}
        self._constants: dict[tuple[str, Form | None], Matrix] = {}
        self._views: dict[str, View] = {}
        self._chosen: Mapping[str, Plan] = {op.name: plans.chosen[op.name] for op in ops}
        for op in ops:
            plan = self._chosen[op.name]
            if isinstance(plan, Views):
                self._views.update({value.name: view for value, view in zip(op.results, plan.views, strict=True)})
            elif isinstance(plan, Update):
                self.updated[op.name] = op.operands[0]
        inside = {op.name for op in ops}
        self._leaving = [value for op in ops for value in op.results if self._is_needed_outside(value, inside)]
        self._outer = {self._whole(value).name: value for value in self._leaving if value.name not in self.updated}
        """What leaves, by the name of the value whose whole matrix it is."""
        self._emit_all(ops)

    def _is_needed_outside(self, value: Value, inside: set[str]) -> bool:
        return self.plans.is_output(value) or any(user.name not in inside for user in self.plans.users(value))

    def _emit_all(self, ops: Sequence[Op]) -> None:
        last: dict[str, int] = {}
        for at, op in enumerate(ops):
            for value in (*self._read_by(op), *op.results):
                last[self._base(value).name] = at
        dying: dict[int, list[str]] = {}
        for name, at in last.items():
            dying.setdefault(at, []).append(name)
        for at, op in enumerate(ops):
            plan = self._chosen[op.name]
            self._scratch: list[Matrix] = []
            if isinstance(plan, Kernels | Update):
                plan.emit(self)
            for value in op.results:
                self._leave(value, plan)
            for matrix in (
                *self._scratch,
                *(self._matrices[name] for name in dying.get(at, ()) if name in self._matrices),
            ):
                self.builder.release(matrix)

    def _read_by(self, op: Op) -> Iterator[Value]:
        """The operands of an op, and what they are computed from where that is left to the op."""
        for value in op.operands:
            yield value
            maker = self.plans.graph.producers.get(value.name)
            if maker is not None and isinstance(self._chosen.get(maker.name), Left):
                yield from maker.operands

    def _leave(self, value: Value, plan: Plan) -> None:
        """See that a value gets out of the program if it must."""
        if value not in self._leaving or value.name in self.updated or isinstance(plan, Left):
            return
        whole = self._whole(value)
        matrix = self._matrices.get(whole.name)
        pointer = f"out {whole.name}"
        if matrix is None or pointer not in self.builder.pointers:
            form = the_form(value)
            source = self.matrix(value)
            pointer = f"out {value.name}"
            out = self.builder.external(pointer, form.size, form.columns, source.dtype)
            self.builder.add("copy", source, out)
        form = the_form(value)
        self.departures.append(Departure(value, form, self.state.dtype(value), pointer))

    def _base(self, value: Value) -> Value:
        """The value in whose matrix a value lies."""
        while value.name in self._views:
            value = self._views[value.name].of
        return value

    def _whole(self, value: Value) -> Value:
        """The value whose matrix is all that of a value."""
        while value.name in self._views and self._views[value.name].columns is None:
            value = self._views[value.name].of
        return value

    def matrix(self, value: Value) -> Matrix:
        """Where an operand lies. A constant is one row, as `constant` gives it."""
        if value.name in self._matrices:
            return self._matrices[value.name]
        if value.name in self._views:
            view = self._views[value.name]
            base = self.matrix(view.of)
            return base if view.columns is None else base.narrow(view.start, view.columns)
        if value.name in self.plans.constant:
            return self.constant(value)
        form = the_form(value)
        name = f"in {value.name}"
        self.arrivals[name] = Arrival(value, form, self.state.dtype(value))
        self._matrices[value.name] = self.builder.external(name, form.size, form.columns, self.state.dtype(value))
        return self._matrices[value.name]

    def result(self, value: Value) -> Matrix:
        """Where a kernel is to write a result."""
        form, dtype = the_form(value), self.state.dtype(value)
        if value.name in self._outer:
            matrix = self.builder.external(f"out {value.name}", form.size, form.columns, dtype)
        else:
            matrix = self.builder.temporary(form.size, form.columns, dtype)
        self._matrices[value.name] = matrix
        return matrix

    def scratch(self, size: Size, columns: int, dtype: torch.dtype = torch.float32) -> Matrix:
        """A matrix for the kernels of one op."""
        matrix = self.builder.temporary(size, columns, dtype)
        self._scratch.append(matrix)
        return matrix

    def constant(self, value: Value, like: Form | None = None) -> Matrix:
        """A constant as one row: of floats as float32; broadcast to the row of another value, by blocks if it must be.

        Args:
            value: the constant.
            like: the form of the other value; None to leave the constant as it is.
        """
        key = (value.name, like)
        if key not in self._constants:
            stored = self.state.load(value)
            if stored.is_floating_point():
                stored = stored.float()
            if like is not None:
                stored = _broadcast(stored, like)
            self._constants[key] = self.fixed_row(f"const {value.name} {like or ''}", stored)
        return self._constants[key]

    def fixed_row(self, name: str, tensor: Tensor) -> Matrix:
        """A tensor as one row of memory that is the same in all steps."""
        flat = tensor.reshape(-1).contiguous()
        self.fixed[name] = flat
        return self.builder.external(name, Size.ONE, flat.numel(), flat.dtype)

    def floats(self, value: Value, count: int | None = None) -> Tensor:
        """A constant in float32, flat, kept as long as the program, for attributes; expanded to `count` elements."""
        flat = self.state.load(value).float().reshape(-1)
        flat = (flat if count is None else flat.expand(count)).contiguous()
        self.builder.keep(flat)
        return flat

    def pool(self, value: Value) -> Matrix:
        """A pool, in its stored type: a row for each block."""
        value = self.updated.get(value.name, value)
        if value.name not in self._matrices:
            name = f"pool {value.name}"
            columns = 1
            for dim in value.type.shape[1:]:
                assert isinstance(dim, int)
                columns *= dim
            dtype = to_torch(value.type.dtype)
            self.arrivals[name] = Arrival(value, None, dtype)
            self._matrices[value.name] = self.builder.external(name, Size.BLOCKS, columns, dtype)
        return self._matrices[value.name]

    def access(self, name: str, size: Size, columns: int) -> Matrix:
        """What says where the step's tokens are: SPANS or TABLES, int32."""
        key = f"access {name}"
        if key not in self._matrices:
            self._matrices[key] = self.builder.external(name, size, columns, torch.int32)
        return self._matrices[key]


def _broadcast(stored: Tensor, like: Form) -> Tensor:
    """A constant as the elements of a row."""
    rank = len(like.others) + (like.axis is not None)
    stored = stored.reshape(*[1] * (rank - stored.dim()), *stored.shape)
    if like.axis is not None:
        stored = stored.squeeze(like.axis)
    return broadcast_blocks(stored, torch.Size(like.others)).expand(like.others)
