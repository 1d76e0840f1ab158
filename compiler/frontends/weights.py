"""Taking a checkpoint's tensors, each exactly once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.config import Size
from compiler.frontends.quantized import Packed, Scheme
from compiler.frontends.quantized.packed import Enter
from compiler.frontends.stored import StoredTensor
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.ir.suggest import did_you_mean

_STORED_FLOATS = (DType.f64, DType.f32, DType.f16, DType.bf16)

Split = Callable[[Value, str], Iterable[Value]]
"""Cuts a fused tensor, or what a quantized one consists of, into its parts: given a value and a word for it."""


class Weights:
    """The weights of a model under construction.

    Attributes:
        dtype: the element type that weights get in the graph.
        scheme: how the checkpoint is quantized; None if it is not.
        parameters: how many elements were taken so far.
    """

    def __init__(self, b: Builder, checkpoint: Checkpoint, dtype: DType, scheme: Scheme | None = None) -> None:
        self.b = b
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.scheme = scheme
        self.parameters = 0
        self.taken: set[str] = set()
        self.ignored: list[re.Pattern[str]] = []
        self._enters: dict[str, Enter] = {}  # what is to happen to inputs, by module

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
        if self.checkpoint.dummy_weights:
            return self._made_up(tensor, tuple(int(size) for size in shape), name)
        packed = self._packed(tensor, shape, name, aliases)
        if packed is not None:
            return self._dequantized(packed.parts.values(), name)
        return self._load(self._claim(tensor, shape, _STORED_FLOATS, aliases), name)

    def take_parts(self, tensor: str, *shape: int, name: str, split: Split, names: Sequence[str]) -> list[Value]:
        """The parts of a tensor that holds several, one below the other or by turns.

        A quantized one stays so: its integers, scales and zero points are split alike.

        Args:
            tensor: its name in the checkpoint.
            shape: its shape.
            name: local name of the whole.
            split: cuts along the first dim.
            names: local names of the parts.

        Raises:
            CheckpointError: like `take`.
        """
        word = tensor.rpartition(".")[2]
        packed = None if self.checkpoint.dummy_weights else self._packed(tensor, shape, name, ())
        if packed is None:
            return list(split(self.take(tensor, *shape, name=name), word))
        self.parameters += math.prod(shape)
        columns = [
            [value] * len(names) if value.type.shape[0] == 1 else list(split(value, f"{word}.{part}"))
            for part, value in packed.parts.items()
        ]
        return [self._dequantized(parts, part) for part, *parts in zip(names, *columns, strict=True)]

    def input(self, module: str, x: Value) -> Value:
        """What a linear, whose weight was taken, multiplies with: `x`, unless the checkpoint quantizes inputs."""
        enter = self._enters.pop(module, None)
        return x if enter is None else enter(self.b, x)

    def divided(self, module: str, x: Value, width: int) -> Value:
        """`x [..., width]` divided by the module's `scales`, which AWQ puts after some activation functions."""
        tensor = f"{module}.scales"
        if self.checkpoint.dummy_weights or self.scheme is None or not self.has(tensor):
            return x
        scales = self.take(tensor, width, name=f"{module.rpartition('.')[2]}.scales")
        return self.b.div(x, scales, name="act.divided")  # type: ignore[no-any-return]

    def raw(self, tensor: str, *shape: int, dtypes: Sequence[DType], name: str) -> Value:
        """A part of a quantized weight as it is stored; the arguments and errors are those of `take`.

        Args:
            tensor: its name in the checkpoint.
            shape: its shape.
            dtypes: the element types that it may have.
            name: local name of the value.
        """
        return self._stored(self._claim(tensor, shape, dtypes), name)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor; CheckpointError if it is missing."""
        return self._find(tensor, ()).shape

    def drop(self, tensor: str) -> None:
        """Say of a tensor, if it is there, that it tells nothing new."""
        self.taken.add(tensor)

    def cache_scale(self, module: str, which: str, heads: int) -> Value:
        """The scale of cached keys (`k`) or values (`v`) of an attention module, where the scheme quantizes them."""
        assert self.scheme is not None
        return self.scheme.cache_scale(self, module, which, heads)

    @property
    def cache_dtype(self) -> DType:
        """The element type of caches."""
        return (self.scheme.cache if self.scheme is not None else None) or self.dtype

    def _packed(self, tensor: str, shape: Sequence[int], name: str, aliases: tuple[str, ...]) -> Packed | None:
        """The tensor if the checkpoint has quantized it; None if not."""
        module, _, kind = tensor.rpartition(".")
        if self.scheme is None or kind != "weight" or len(shape) != 2:
            return None
        for spelling in (tensor, *aliases):
            out, width = map(int, shape)
            packed = self.scheme.weight(self, spelling.removesuffix(".weight"), out, width, name)
            if packed is not None:
                if packed.enter is not None:
                    self._enters[module] = packed.enter
                return packed
        return None

    def _dequantized(self, parts: Iterable[Value], name: str) -> Value:
        return self.b.dequantize(*parts, dtype=self.dtype, name=name)  # type: ignore[no-any-return]

    def _claim(
        self, tensor: str, shape: Sequence[int], dtypes: Sequence[DType], aliases: tuple[str, ...] = ()
    ) -> StoredTensor:
        """Where the tensor is, which is taken now; CheckpointError as said at `take`."""
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
        if self._enters:
            raise CheckpointError(
                f"the checkpoint quantizes or sorts the inputs of {next(iter(self._enters))!r}, which is not supported",
                hint="compile the unquantized checkpoint, and let llmc quantize it",
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
        if not cast:
            return self._stored(stored, name)
        value = self._stored(stored, f"{name}.transposed" if stored.perm else f"{name}.stored", f"{name}.stored")
        return self.b.cast(value, dtype=self.dtype, name=name)  # type: ignore[no-any-return]

    def _stored(self, stored: StoredTensor, name: str, before: str = "") -> Value:
        """Const, then transpose if it is stored transposed; the last is `name`."""
        value: Value = self.b.const(data=stored.ref(), name=(before or f"{name}.stored") if stored.perm else name)
        if stored.perm:
            value = self.b.transpose(value, perm=stored.perm, name=name)
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


def _reasons(shape: Sequence[int]) -> str:
    """` (vocab_size = 512, hidden_size = 64)`, as far as sizes know where they come from."""
    known = dict.fromkeys(f"{size.origin} = {size}" for size in shape if isinstance(size, Size))
    return f" ({', '.join(known)})" if known else ""
