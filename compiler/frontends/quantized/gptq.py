"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them.

A module has `qweight i32[K * bits / 32, N]`, packed along the inputs; `qzeros i32[groups, N * bits / 32]`, packed along
the outputs; `scales [groups, N]`; and `g_idx i32[K]`, the group of each input. The first version of the format stores
each zero point less one. GPTQModel subtracts a constant from the words, so that a zero point of 0 borrows from the next
one; before its version 7 the constants for 3 bits subtracted other numbers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.frontends.quantized.packed import (
    Options,
    PackedLinear,
    groups_of,
    has_any,
    in_order,
    ordered,
    stored_integers,
    transposed,
    wide,
)
from compiler.frontends.quantized.uncached import Uncached
from compiler.ir.builder import Builder
from compiler.ir.dtypes import DType
from compiler.ir.op import Value

if TYPE_CHECKING:
    from compiler.frontends.weights import Weights


class GptqImporter(Uncached):
    """See `PackedScheme`. Of groups, their order and zero points, what is stored counts, whatever the options say."""

    def __init__(self, options: Options) -> None:
        """Read the options; ConfigError if one is not supported."""
        self.options = options
        self.bits: int = options.take("bits", int)
        options.only("bits", 2, 3, 4, 8)
        self.group: int | None = options.take("group_size", int, default=None)
        self.sorted: bool | None = options.take("desc_act", bool, default=None)
        self.symmetric: bool | None = options.take("sym", bool, default=None)
        self.less_one = options.only("checkpoint_format", "gptq", "gptq_v2") == "gptq"
        quantizer = options.take("meta", dict, default={}).get("quantizer", "")
        gptqmodel = re.search(r"gptqmodel:(\d+)", str(quantizer).lower())
        self.by_word = self.bits != 3 or (gptqmodel is not None and int(gptqmodel[1]) < 7)
        if not all(str(pattern).startswith(_SKIPPED) for pattern in options.take("dynamic", dict, default={})):
            options.only("dynamic", {})
        options.only("is_marlin_format", False)
        options.only("pack_dtype", "int32")
        for changed in ("activation", "adapter", "rotation"):
            options.only(changed, {})

    def weight(self, weights: Weights, module: str, out: int, width: int, name: str) -> PackedLinear | None:
        """See `PackedScheme.weight`."""
        if not has_any(weights, module, "qweight", "qzeros", "scales", "g_idx"):
            return None
        self._note_unsaid(weights)
        b = weights.b
        words = weights.raw(
            f"{module}.qweight", self._words(module, width), out, dtypes=(DType.i32,), name=f"{name}.words"
        )
        q = b.unpack(words, bits=self.bits, axis=0, name=f"{name}.by_input")
        groups = self._groups(weights, module, width)
        scales = weights.raw(f"{module}.scales", groups, out, dtypes=_SCALES, name=f"{name}.scale.stored")
        scale = transposed(b, wide(b, scales, f"{name}.scale.f32"), f"{name}.scale")
        zero = self._zero(weights, module, groups, out, name)
        q = transposed(b, q, f"{name}.packed")
        if self._in_order(weights, module, groups, width):
            return PackedLinear(q, scale, zero)
        numbers = weights.raw(f"{module}.g_idx", width, dtypes=(DType.i32,), name=f"{name}.groups")
        q, enter = ordered(b, q, numbers, groups, name)
        return PackedLinear(q, scale, zero, enter)

    def _note_unsaid(self, weights: Weights) -> None:
        """Say which options a file leaves out: what is stored tells as much. A user need not give them."""
        if self.options.file.startswith("--"):
            return
        known = {"group_size": self.group, "desc_act": self.sorted, "sym": self.symmetric}
        if unsaid := [key for key, value in known.items() if value is None]:
            keys = " and ".join(map(repr, unsaid))
            weights.note(f"{self.options.file.rstrip(',')} does not say {keys}: what is stored is used")

    def _groups(self, weights: Weights, module: str, width: int) -> int:
        """How many groups of inputs share their scales."""
        if self.group is not None:
            return groups_of(module, width, self.group)
        stored = weights.shape(f"{module}.scales")
        return groups_of(module, width, width // stored[0]) if stored and 0 < stored[0] <= width else 1

    def _in_order(self, weights: Weights, module: str, groups: int, width: int) -> bool:
        """Whether each group is a run of inputs, by what is stored."""
        tensor = f"{module}.g_idx"
        if not weights.has(tensor) and (not self.sorted or groups == 1):
            return True
        if in_order(weights, tensor, groups, width):
            weights.drop(tensor)
            return True
        if self.sorted is False:
            weights.contradicted(f"{self.options.file} sets 'desc_act' to False", tensor)
        return False

    def _zero(self, weights: Weights, module: str, groups: int, out: int, name: str) -> Value | None:
        """Zero points; None where all are in the middle, as those of symmetric weights are."""
        tensor = f"{module}.qzeros"
        b, shape = weights.b, (groups, self._words(module, out))
        words = weights.raw(tensor, *shape, dtypes=(DType.i32,), name=f"{name}.zero.words")
        if self.symmetric is not False and self._is_symmetric(weights, tensor):
            return None
        if self.less_one and self.by_word:
            words = self._restored(weights, words, name)
        zero = b.unpack(words, bits=self.bits, axis=1, name=f"{name}.zero.by_group")
        if self.less_one and not self.by_word:
            zero = self._plus_one(b, zero, name)
        return transposed(b, zero, f"{name}.zero")

    def _is_symmetric(self, weights: Weights, tensor: str) -> bool:
        """Whether all stored zero points are in the middle.

        Raises:
            CheckpointError: if all are where the other version of the format has the middle.
        """
        words = weights.read(tensor)
        stored = stored_integers(words, self.bits, axis=1)  # 0 is in the middle
        symmetric = bool((stored == -self.less_one).all())
        if self.less_one and self.by_word:
            subtracted = words.new_tensor(_subtracted(self.bits))
            restored = words + subtracted.repeat(words.shape[1] // len(subtracted))
            symmetric = not stored_integers(restored, self.bits, axis=1).any()
        if symmetric:
            return True
        if bool((stored == (0 if self.less_one else -1)).all()):
            found, said = ("gptq_v2", "gptq") if self.less_one else ("gptq", "gptq_v2")
            raise CheckpointError(
                f"the tensor {tensor!r} holds the zero points of symmetric weights in the format {found}; "
                f"{self.options.file} says {said}",
                hint=f"set 'checkpoint_format' to {found!r} there if that is what wrote the checkpoint, "
                "or 'sym' to false if it is not symmetric",
            )
        if self.symmetric:
            weights.contradicted(f"{self.options.file} sets 'sym' to True", tensor)
        return False

    def _plus_one(self, b: Builder, zero: Value, name: str) -> Value:
        """Add one to each zero point; the largest stored one stands for 0."""
        half = 1 << (self.bits - 1)
        one, largest, least = (
            b.literal(dtype=zero.type.dtype, shape=(1,), values=(value,)) for value in (1, half - 1, -half)
        )
        added = b.add(zero, one, name=f"{name}.zero.added")
        return b.where(b.less(zero, largest), added, least, name=f"{name}.zero.plus_one")

    def _restored(self, weights: Weights, words: Value, name: str) -> Value:
        """Add to the words what was subtracted from them; carries go to the next integer, as borrows came from it."""
        b, values = weights.b, _subtracted(self.bits)
        groups, count = words.type.sizes({})
        literal = b.literal(dtype=DType.i32, shape=(len(values),), values=values, name=f"{name}.zero.ones")
        rows = b.reshape(words, shape=(groups, count // len(values), len(values)), name=f"{name}.zero.turns")
        added = b.add(rows, literal, name=f"{name}.zero.added")
        return b.reshape(added, shape=(groups, count), name=f"{name}.zero.plus_one")

    def _words(self, module: str, count: int) -> int:
        whole = 96 if self.bits == 3 else 32
        if count * self.bits % whole:
            raise CheckpointError(
                f"{module} has {count} inputs or outputs, of which {self.bits} bits each do not fill words of 32 bits",
                hint="compile the unquantized checkpoint, and let llmc quantize it",
            )
        return count * self.bits // 32


# Begins a pattern of modules that are not quantized, which what is stored tells as well.
_SKIPPED = "-:"
_SCALES = (DType.f32, DType.f16, DType.bf16)
# By width; one word after the other.
_SUBTRACTED = {
    2: (0x55555555,),
    3: (0x24924924, 0x92492492, 0x49249249),
    4: (0x11111111,),
    8: (0x01010101,),
}


def _subtracted(bits: int) -> tuple[int, ...]:
    """What was subtracted from the words of zero points, one word after the other, as i32."""
    return tuple(word - (1 << 32) if word >> 31 else word for word in _SUBTRACTED[bits])
