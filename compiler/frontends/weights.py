"""Taking a checkpoint's tensors, each exactly once."""

from __future__ import annotations

import math
import re

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.config import Size
from compiler.frontends.stored import StoredTensor
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.suggest import did_you_mean

_STORED_FLOATS = (DType.f64, DType.f32, DType.f16, DType.bf16)


class Weights:
    """The weights of a model under construction.

    Attributes:
        dtype: the element type that weights get in the graph.
        parameters: how many elements were taken so far.
    """

    def __init__(self, b: Builder, checkpoint: Checkpoint, dtype: DType) -> None:
        self.b = b
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.parameters = 0
        self.taken: set[str] = set()
        self.ignored: list[re.Pattern[str]] = []

    def base(self, *prefixes: str) -> str:
        """The first of the prefixes that any tensor's name starts with; the first of all if none does."""
        names = self.checkpoint.tensors
        return next((p for p in prefixes if any(name.startswith(p) for name in names)), prefixes[0])

    def has(self, tensor: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        return tensor in self.checkpoint.tensors

    def ignore(self, *patterns: str) -> None:
        """Tensors that carry no weights: buffers, and copies of tied weights. Regular expressions of whole names."""
        self.ignored += map(re.compile, patterns)

    def take(self, tensor: str, *shape: int, name: str, aliases: tuple[str, ...] = ()) -> Value:
        """The tensor in the graph's element type, as a value called `name` in the builder's scope.

        Args:
            tensor: its name in the checkpoint.
            shape: its shape; sizes that are `Size`s are explained by their config keys in messages.
            name: local name of the value.
            aliases: other names that checkpoints use for the same tensor.

        Raises:
            CheckpointError: if it is missing, of another shape, not floating-point, or was taken before.
        """
        self.parameters += math.prod(shape)
        plain = tuple(int(size) for size in shape)
        if self.checkpoint.dummy_weights:
            return self._made_up(tensor, plain, name)
        stored = self._find(tensor, aliases)
        if stored.name in self.taken:
            raise CheckpointError(f"the tensor {stored.name!r} is used twice")
        self.taken.add(stored.name)
        if stored.shape != plain:
            raise CheckpointError(
                f"the tensor {stored.name!r} in {stored.file} is {shape_text(stored.shape)}, "
                f"but the config makes it {shape_text(plain)}{_reasons(shape)}",
                hint="config.json and the weights belong to different models, or a key of config.json is wrong",
            )
        if stored.dtype not in _STORED_FLOATS:
            raise CheckpointError(
                f"the tensor {stored.name!r} in {stored.file} is stored as {stored.spelling}; "
                f"supported are {', '.join(map(str, _STORED_FLOATS))}",
                hint="if the checkpoint is quantized: that is not supported yet",
            )
        return self._load(stored, name)

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

    def _load(self, stored: StoredTensor, name: str) -> Value:
        """Const, then transpose if it is stored transposed, then cast if stored in another type; the last is `name`."""
        assert stored.dtype is not None
        cast = stored.dtype is not self.dtype
        before = f"{name}.stored"
        value: Value = self.b.const(data=stored.ref(), name=before if cast or stored.perm else name)
        if stored.perm:
            value = self.b.transpose(value, perm=stored.perm, name=f"{name}.transposed" if cast else name)
        if cast:
            value = self.b.cast(value, dtype=self.dtype, name=name)
        return value

    def _made_up(self, tensor: str, shape: tuple[int, ...], name: str) -> Value:
        """Noise of the scale that a trained model has, so that activations neither vanish nor overflow."""
        bias = tensor.endswith("bias")
        norm = not bias and len(shape) == 1
        value: Value = self.b.random(
            key=tensor,
            dtype=self.dtype,
            shape=shape,
            mean=1.0 if norm else 0.0,
            std=0.0 if bias else 0.02,
            name=name,
        )
        return value


def _reasons(shape: tuple[int, ...]) -> str:
    """` (vocab_size = 512, hidden_size = 64)`, as far as sizes know where they come from."""
    known = dict.fromkeys(f"{size.origin} = {size}" for size in shape if isinstance(size, Size))
    return f" ({', '.join(known)})" if known else ""
