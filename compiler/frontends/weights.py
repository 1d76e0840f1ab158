"""A checkpoint's tensors as the weights of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.composed import SourceTensor
from compiler.frontends.quantized import PackedLinear, PackedScheme
from compiler.frontends.quantized.packed import Enter
from compiler.frontends.tensors import Tensors
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.store.stored_tensor import StoredTensor

DIVISORS = "scales"
"""What the tensor is called that AWQ divides the results of some activation functions by."""

_STORED_FLOATS = (DType.f64, DType.f32, DType.f16, DType.bf16)

Split = Callable[[Value, str], Iterable[Value]]
"""Cuts a fused tensor, or what a quantized one consists of, into its parts: given a value and a word for it."""


class Weights(Tensors):
    """The weights of a model under construction.

    Attributes:
        dtype: the element type that weights get in the graph.
        scheme: how the checkpoint is quantized; None if it is not.
        parameters: how many elements were taken so far.
    """

    def __init__(self, b: Builder, checkpoint: Checkpoint, dtype: DType, scheme: PackedScheme | None = None) -> None:
        super().__init__(b, checkpoint)
        self.dtype = dtype
        self.scheme = scheme
        self.parameters = 0
        self._enters: dict[str, Enter] = {}  # what is to happen to inputs, by module
        self._quantized: set[str] = set()  # the modules whose weights were quantized

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
        return self._load(self.claim(tensor, shape, _STORED_FLOATS, aliases), name)

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
        for value in packed.parts.values():
            if value.type.shape[0] not in (1, int(shape[0])):
                raise CheckpointError(
                    f"{tensor!r} has a scale for each {int(shape[0]) // value.type.sizes({})[0]} outputs, "
                    "which cannot be split into its parts",
                    hint="compile the unquantized checkpoint, and let llmc quantize it",
                )
        columns = [
            [value] * len(names) if value.type.shape[0] == 1 else list(split(value, f"{word}.{part}"))
            for part, value in packed.parts.items()
        ]
        return [self._dequantized(parts, part) for part, *parts in zip(names, *columns, strict=True)]

    def ties(self, wanted: bool, table: str, *heads: str) -> bool:
        """Whether the head multiplies by the embedding's table.

        What is stored decides. Where a config ties the two, and both are stored but differ, each is used, with a note,
        as transformers does; one that is stored alone stands for both.

        Args:
            wanted: what the config says.
            table: the module of the embedding.
            heads: what checkpoints call the module of the head.
        """
        stored = [head for head in heads if self._holds_weight(head)]
        if not wanted or not self._holds_weight(table):
            return wanted
        for head in stored:
            both = [f"{module}.weight" for module in (table, head)]
            if not all(map(self.has, both)) or not self.same(*both):
                self.contradicted(
                    f"{self.checkpoint.config_name} ties the head to the embedding ('tie_word_embeddings')", both[1]
                )
                return False
            self.drop(both[1])
        return True

    def _holds_weight(self, module: str) -> bool:
        """Whether the weight of a module is stored, in whatever form."""
        return any(name.startswith(f"{module}.") and not name.endswith(".bias") for name in self.tensors)

    def input(self, module: str, x: Value) -> Value:
        """What a linear, whose weight was taken, multiplies with: `x`, unless the checkpoint quantizes inputs."""
        enter = self._enters.pop(module, None)
        return x if enter is None else enter(self.b, x)

    def adds_bias(self, module: str) -> bool:
        """Whether a linear, whose weight was taken, is quantized and has a bias: old AutoGPTQ gave one to each."""
        return module in self._quantized and self.has(f"{module}.bias")

    def divided(self, module: str, x: Value, width: int) -> Value:
        """`x [..., width]` divided by the module's `scales`, which AWQ puts after some activation functions."""
        tensor = f"{module}.{DIVISORS}"
        stored = self.scheme is not None and self.has(tensor)
        if not (self.checkpoint.optional_weights if self.checkpoint.dummy_weights else stored):
            return x
        scales = self.take(tensor, width, name=f"{module.rpartition('.')[2]}.scales")
        return self.b.div(x, scales, name="act.divided")

    def cache_scale(self, module: str, which: str, heads: int) -> Value:
        """The scale of cached keys (`k`) or values (`v`) of an attention module, where the scheme quantizes them."""
        assert self.scheme is not None
        return self.scheme.cache_scale(self, module, which, heads)

    @property
    def cache_dtype(self) -> DType:
        """The element type of caches."""
        return (self.scheme.cache if self.scheme is not None else None) or self.dtype

    def finish(self) -> None:
        """CheckpointError, naming it, if a tensor was neither taken nor ignored, or an input not quantized."""
        super().finish()
        if self.scheme is not None and self.scheme.cache is None and not self._quantized:
            self.note("the config says that weights are quantized, but none that is stored is: they are used as stored")
        if self._enters:
            raise CheckpointError(
                f"the checkpoint quantizes or sorts the inputs of {next(iter(self._enters))!r}, which is not supported",
                hint="compile the unquantized checkpoint, and let llmc quantize it",
            )

    def _packed(self, tensor: str, shape: Sequence[int], name: str, aliases: tuple[str, ...]) -> PackedLinear | None:
        """The tensor if the checkpoint has quantized it; None if not."""
        module, _, kind = tensor.rpartition(".")
        if self.scheme is None or kind != "weight" or len(shape) != 2:
            return None
        for spelling in (tensor, *aliases):
            out, width = map(int, shape)
            packed = self.scheme.weight(self, spelling.removesuffix(".weight"), out, width, name)
            if packed is not None:
                self._quantized.add(module)
                if packed.enter is not None:
                    self._enters[module] = packed.enter
                return packed
        return None

    def _dequantized(self, parts: Iterable[Value], name: str) -> Value:
        return self.b.dequantize(*parts, dtype=self.dtype, name=name)

    def _load(self, stored: SourceTensor, name: str) -> Value:
        """Const, then transpose if it is stored transposed, then cast if stored in another type; the last is `name`."""
        assert stored.dtype is not None
        cast = stored.dtype is not self.dtype
        if not cast:
            return self.append(stored, name)
        turned = isinstance(stored, StoredTensor) and stored.perm is not None
        value = self.append(stored, f"{name}.transposed" if turned else f"{name}.stored", f"{name}.stored")
        return self.b.cast(value, dtype=self.dtype, name=name)

    def _made_up(self, tensor: str, shape: tuple[int, ...], name: str) -> Value:
        """Noise of the scale that a trained model has, so that activations neither vanish nor overflow."""
        bias = tensor.endswith("bias")
        norm = not bias and len(shape) == 1
        return self.b.random(
            key=tensor,
            dtype=self.dtype,
            shape=shape,
            mean=1.0 if norm else 0.0,
            std=0.0 if bias else 0.02,
            name=name,
        )
