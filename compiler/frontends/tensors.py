"""A checkpoint's tensors as they are stored, each used exactly once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.config import Size
from compiler.frontends.stored import StoredTensor
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.suggest import did_you_mean


class Tensors:
    """The tensors of a checkpoint that becomes a graph.

    Attributes:
        b: what constants are appended with.
        checkpoint: the checkpoint.
        taken: the names of the tensors that have found a place.
        ignored: what tensors that need none are called.
    """

    def __init__(self, b: Builder, checkpoint: Checkpoint) -> None:
        self.b = b
        self.checkpoint = checkpoint
        self.taken: set[str] = set()
        self.ignored: list[re.Pattern[str]] = []

    def base(self, *prefixes: str) -> str:
        """The first of the prefixes that any tensor's name starts with; the first of all if none does."""
        names = self.checkpoint.tensors
        return next((p for p in prefixes if any(name.startswith(p) for name in names)), prefixes[0])

    def has(self, tensor: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        return tensor in self.checkpoint.tensors

    def has_module(self, module: str) -> bool:
        """Whether the checkpoint holds any tensor of the module."""
        return any(name.startswith(f"{module}.") for name in self.checkpoint.tensors)

    def ignore(self, *patterns: str) -> None:
        """Tensors that carry no weights: buffers, and copies of tied weights. Regular expressions of whole names."""
        self.ignored += map(re.compile, patterns)

    def raw(self, tensor: str, *shape: int, dtypes: Sequence[DType], name: str) -> Value:
        """A tensor in the element type that it is stored in.

        Args:
            tensor: its name in the checkpoint.
            shape: its shape; sizes that are `Size`s are explained by their config keys in messages.
            dtypes: the element types that it may have.
            name: local name of the value.

        Raises:
            CheckpointError: if it is missing, of another shape or type, or was taken before.
        """
        return self.append(self.claim(tensor, shape, dtypes), name)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor; CheckpointError if it is missing."""
        return self._find(tensor, ()).shape

    def drop(self, tensor: str) -> None:
        """Say of a tensor, if it is there, that it tells nothing new."""
        self.taken.add(tensor)

    def finish(self) -> None:
        """CheckpointError, naming it, if any tensor was neither taken nor ignored."""
        left = [
            name
            for name in self.checkpoint.tensors
            if name not in self.taken and not any(pattern.fullmatch(name) for pattern in self.ignored)
        ]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise CheckpointError(
                f"the tensor {left[0]!r} in {self.checkpoint.tensors[left[0]].file}{more} "
                "has no place in the model that config.json describes",
                hint="a key of config.json is wrong, or the model is a variant that is not supported",
            )

    def claim(
        self, tensor: str, shape: Sequence[int], dtypes: Sequence[DType], aliases: tuple[str, ...] = ()
    ) -> StoredTensor:
        """Where the tensor, or one of the aliases, is, which is taken now; CheckpointError as said at `raw`."""
        stored = self._find(tensor, aliases)
        if stored.name in self.taken:
            raise CheckpointError(f"the tensor {stored.name!r} is used twice")
        self.taken.add(stored.name)
        plain = tuple(int(size) for size in shape)
        if stored.shape != plain:
            raise CheckpointError(
                f"the tensor {stored.name!r} in {stored.file} is {shape_text(stored.shape)}, "
                f"but the config makes it {shape_text(plain)}{_reasons(shape)}",
                hint="config.json and the weights belong to different models, or a key of config.json is wrong",
            )
        if stored.dtype not in dtypes:
            raise CheckpointError(
                f"the tensor {stored.name!r} in {stored.file} is stored as {stored.spelling}; "
                f"supported are {', '.join(map(str, dtypes))}",
                hint="if the checkpoint is quantized: its config says nothing of it, or something else",
            )
        return stored

    def _find(self, tensor: str, aliases: tuple[str, ...]) -> StoredTensor:
        tensors = self.checkpoint.tensors
        for spelling in (tensor, *aliases):
            if spelling in tensors:
                return tensors[spelling]
        files = [path.name for path in self.checkpoint.files]
        looked = ", ".join(files) if len(files) <= 3 else f"{files[0]} ... {files[-1]} ({len(files)} files)"
        also = f" (nor {' nor '.join(map(repr, aliases))})" if aliases else ""
        kind = tensor.rpartition(".")[2]  # no weight stands in for a bias
        near = did_you_mean(tensor, [name for name in tensors if name.endswith(kind) and name not in self.taken])
        raise CheckpointError(f"the tensor {tensor!r}{also} is missing from {looked}{near}")

    def append(self, stored: StoredTensor, name: str, before: str = "") -> Value:
        """Append a const, then a transpose if it is stored transposed; the last is `name`."""
        value: Value = self.b.const(data=stored.ref(), name=(before or f"{name}.stored") if stored.perm else name)
        if stored.perm:
            value = self.b.transpose(value, perm=stored.perm, name=name)
        return value


def _reasons(shape: Sequence[int]) -> str:
    """` (vocab_size = 512, hidden_size = 64)`, as far as sizes know where they come from."""
    known = dict.fromkeys(f"{size.origin} = {size}" for size in shape if isinstance(size, Size))
    return f" ({', '.join(known)})" if known else ""
