"""The modules of a compressed-tensors checkpoint that are quantized alike: an entry of its `config_groups`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.quantized.packed import Enter, Options, PackedLinear, in_order, ordered, stored_integers
from compiler.frontends.quantized.stored_scales import chained, static_input, token_input, weight_scale
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights

FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_STRATEGIES = ("tensor", "channel", "group", "block")
_BY_INDEX = (True, "group", "dynamic")


class Group:
    """How the modules of a group are quantized.

    Attributes:
        targets: the modules, by name, by pattern (`re:...`) or by class.
    """

    def __init__(self, options: Options) -> None:
        """Read the group's options; ConfigError if one is not supported."""
        options.only("format", *FORMATS)
        self._file = options.file
        self.targets = [str(target) for target in options.take("targets", list)]
        weights = options.section("weights")
        weights.only("dynamic", False)
        self._blocks = _Blocks(weights)
        self._float = weights.only("type", "int", "float") == "float"
        self._bits = int(weights.only("num_bits", *((8,) if self._float else (8, 4, 2, 3, 5, 6, 7))))
        self._symmetric = weights.only("symmetric", True, False)
        self._by_index = weights.only("actorder", False, "weight", "static", *_BY_INDEX) in _BY_INDEX
        self._activations = _activations(options)

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear:
        """See `PackedScheme.weight`."""
        scale = weight_scale(
            weights, f"{module}.weight_scale", out, width, f"{name}.scale", self._blocks.of(out, width)
        )
        q = self._q(weights, module, out, width, name)
        zero = self._zero(weights, module, scale, q.type.dtype, name)
        enter = self._enter(weights, module, name)
        groups = scale.type.sizes({})[1]
        if self._in_order(weights, module, groups, width):
            return PackedLinear(q, scale, zero, enter)
        numbers = weights.raw(f"{module}.weight_g_idx", width, dtypes=(DType.i32,), name=f"{name}.groups")
        q, sort = ordered(weights.b, q, numbers, groups, name)
        return PackedLinear(q, scale, zero, chained(sort, enter))

    def _in_order(self, weights: Weights, module: str, groups: int, width: int) -> bool:
        """Whether each group is a run of inputs.

        Raises:
            CheckpointError: if the groups that are stored are in another order than the options say.
        """
        tensor = f"{module}.weight_g_idx"
        if not weights.has(tensor) and not (self._by_index and groups > 1):
            return True
        # A number below 0 stands where a tool has put none.
        if bool((weights.read(tensor) < 0).any()) or in_order(weights, tensor, groups, width):
            weights.drop(tensor)
            return True
        if not self._by_index:
            raise _contradicted(tensor, "puts the inputs into another order", self._file, "actorder")
        return False

    def _q(self, weights: Weights, module: str, out: int, width: int, name: str) -> Value:
        tensor = f"{module}.weight_packed"
        if not weights.has(tensor):
            dtype = DType.f8e4m3 if self._float else DType.i8
            return weights.raw(f"{module}.weight", out, width, dtypes=(dtype,), name=f"{name}.packed")
        self._check_shape(weights, f"{module}.weight_shape", out, width)
        count = -(-width * self._bits // 32)
        if weights.shape(tensor) == (out, -(-width // (32 // self._bits))) != (out, count):
            raise CheckpointError(
                f"the tensor {tensor!r} has bits left over in each word, which is not supported: "
                f"compressed-tensors before 0.18 packed {self._bits} bits so",
                hint="write the checkpoint again with a newer compressed-tensors",
            )
        words = weights.raw(tensor, out, count, dtypes=(DType.i32,), name=f"{name}.words")
        return self._unpacked(weights, words, 1, width, f"{name}.packed")

    def _check_shape(self, weights: Weights, tensor: str, out: int, width: int) -> None:
        """CheckpointError if the shape that is stored beside packed integers is another one."""
        if weights.has(tensor) and (stored := weights.read(tensor).tolist()) != [out, width]:
            raise CheckpointError(
                f"the tensor {tensor!r} says that the weight is {shape_text(tuple(stored))}, "
                f"but the config makes it [{out},{width}]",
                hint="config.json and the weights belong to different models",
            )
        weights.drop(tensor)

    def _zero(self, weights: Weights, module: str, scale: Value, dtype: DType, name: str) -> Value | None:
        tensor = f"{module}.weight_zero_point"
        if self._symmetric or self._float:
            _drop_zeros(weights, tensor, self._file, packed=(self._bits, scale.type.sizes({})[0]))
            return None
        rows, groups = scale.type.sizes({})
        if weights.has(f"{module}.weight_packed") and self._blocks.strategy in ("channel", "group"):
            count = -(-rows * self._bits // 32)
            words = weights.raw(tensor, count, groups, dtypes=(DType.i32,), name=f"{name}.zero.words")
            return self._unpacked(weights, words, 0, rows, f"{name}.zero")
        shape = weights.shape(tensor)
        if math.prod(shape) != rows * groups:
            raise CheckpointError(f"the tensor {tensor!r} is {shape_text(shape)}; the scales are [{rows},{groups}]")
        stored = weights.raw(tensor, *shape, dtypes=(DType.i8,), name=f"{name}.zero.stored")
        shaped = weights.b.reshape(stored, shape=(rows, groups), name=f"{name}.zero.blocks")
        if dtype is DType.i8:
            return shaped
        return weights.b.cast(shaped, dtype=dtype, name=f"{name}.zero")

    def _unpacked(self, weights: Weights, words: Value, axis: int, size: int, name: str) -> Value:
        """The integers of words, without what fills the last word."""
        b = weights.b
        every = b.unpack(words, bits=self._bits, axis=axis, name=name)
        if every.type.shape[axis] == size:
            return every
        return b.slice(every, axis=axis, start=0, size=size, name=f"{name}.cut")

    def _enter(self, weights: Weights, module: str, name: str) -> Enter | None:
        if self._activations is None:
            return None
        dtype = DType.f8e4m3 if self._activations.only("type", "int", "float") == "float" else DType.i8
        if self._activations.only("dynamic", False, True):
            return token_input(dtype)
        symmetric = self._activations.only("symmetric", True, False)
        if symmetric:
            _drop_zeros(weights, f"{module}.input_zero_point", self._file)
        return static_input(weights, module, dtype, name, zero=not symmetric)


def _contradicted(tensor: str, what: str, file: str, key: str) -> CheckpointError:
    """The error for a tensor that is not what an option says: which of the two is right, nobody can tell."""
    return CheckpointError(
        f"the tensor {tensor!r} {what}; {file} says {key!r} otherwise",
        hint=f"correct {key!r} there, or write the checkpoint again",
    )


def _drop_zeros(weights: Weights, tensor: str, file: str, packed: tuple[int, int] = (8, 0)) -> None:
    """Leave out the zero points of what is symmetric.

    Args:
        weights: the checkpoint's.
        tensor: the zero points, if they are stored.
        file: what says that they are 0.
        packed: the bits of each in words of i32 along the outputs, and how many there are.

    Raises:
        CheckpointError: if one is not 0.
    """
    if not weights.has(tensor):
        return
    stored, (bits, count) = weights.read(tensor), packed
    if stored.dtype.itemsize == 4 and stored.any():
        stored = stored_integers(stored, bits, axis=0)[:count]
    if stored.double().any():
        raise _contradicted(tensor, "holds zero points that are not 0", file, "symmetric")
    weights.drop(tensor)


class _Blocks:
    """Which weights share a scale."""

    def __init__(self, options: Options) -> None:
        size = options.take("group_size", int, default=0)
        usual = "group" if size > 0 else "channel" if size < 0 else "tensor"
        self.strategy: str = options.only("strategy", *_STRATEGIES, default=usual)
        self._shape: tuple[int, ...] = ()
        if self.strategy == "group":
            self._shape = (1, options.take("group_size", int))
        elif self.strategy == "block":
            self._shape = tuple(map(int, options.take("block_structure", list)))

    def of(self, out: int, width: int) -> tuple[int, ...]:
        """The shape of the parts of a weight `[out, width]` that have one scale each."""
        return self._shape or ((1, width) if self.strategy == "channel" else (out, width))


def _activations(options: Options) -> Options | None:
    """How inputs are quantized; None if they are not."""
    if options.take("output_activations", dict, default={}):
        raise ConfigError(
            f"{options.file} sets 'output_activations', which is not supported",
            hint="compile the unquantized checkpoint, and let llmc quantize it",
        )
    if not options.take("input_activations", dict, default={}):
        return None
    found = options.section("input_activations")
    found.only("num_bits", 8)
    if found.only("dynamic", False, True):
        found.only("strategy", "token", default="tensor")
        found.only("symmetric", True)
    else:
        found.only("strategy", "tensor")
    return found
