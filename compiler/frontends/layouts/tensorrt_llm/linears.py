"""One linear of one rank in the forms in which TensorRT-LLM stores it, all brought into one.

That form is what a linear of a quantized checkpoint has in the Hugging Face layout, by the last part of the names:
`weight [N, K]` as floats, i8, i4 or f8e4m3, `bias [N]`, `weight_scale [1, 1]`, `[N, 1]` or `[N, groups]`, `weight_zero`
of that shape, `input_scale`, `pre_quant_scale [K]`, by which inputs are multiplied, and `smoother [K]`, by which they
are divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.composed import ComposedTensor, SourceTensor, reshaped, transposed
from compiler.frontends.layouts.tensorrt_llm.arrangement import ARRANGEMENTS, TILE, Arrangement, fitting, rearranged
from compiler.frontends.read_stored import read_stored
from compiler.ir.builder import Builder
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import Value
from compiler.store.stored_tensor import StoredTensor

Linear = dict[str, SourceTensor]
Stored = dict[str, StoredTensor]
"""The tensors of a linear of one rank, by what is behind its name; `to_int` is the scale of its inputs, inverted."""

KINDS = (
    *("weight", "bias", "per_channel_scale", "weights_scaling_factor", "activation_scaling_factor"),
    *("zero", "act_scale", "prequant_scaling_factor", "smoother"),
)
"""What may be behind the name of a linear."""

_FLOATS = (DType.f32, DType.f16, DType.bf16)
_ROUGHLY = 0.1  # how far a zero point, recovered from its product with the scale in 16 bits, may be from an integer


@dataclass
class Forms:
    """How the linears of a checkpoint are stored.

    Attributes:
        folder: the checkpoint's folder.
        algorithm: the `quant_algo`; None for none.
        gpu: the arrangement of integers that the user names; None for what they tell themselves.
        notes: where to add what the user may want to know.
    """

    folder: Path
    algorithm: str | None
    gpu: str | None
    notes: list[str]

    def linear(self, stored: Stored, inputs: int, outputs: int) -> Linear:
        """The linear `inputs → outputs` of one rank.

        Raises:
            CheckpointError: if its tensors do not fit each other or these sizes.
        """
        weight, algorithm = stored["weight"], self.algorithm or ""
        scale = stored.get("per_channel_scale") or stored.get("weights_scaling_factor")
        found: Linear = {"weight": weight}
        uses: Sequence[str] = ()
        if scale is None or _is_float(weight, inputs, outputs):
            # Of a head that is not quantized, ModelOpt exports scales all the same; TensorRT-LLM drops them.
            if weight.name == "lm_head.weight":
                uses = ("weights_scaling_factor", "activation_scaling_factor")
        elif algorithm in ("W8A16", "W4A16"):
            uses = ("per_channel_scale",)
            found["weight"] = self._rearranged(weight, scale, int(algorithm[1]), inputs, outputs)
            found["weight_scale"] = reshaped(scale.name, scale, outputs, 1)
        elif algorithm.endswith("_GPTQ"):
            uses = ("weights_scaling_factor", "zero")
            found |= self._by_groups(stored, scale, 8 if algorithm == "W8A16_GPTQ" else 4, inputs, outputs)
        elif algorithm == "W4A16_AWQ":
            uses = ("weights_scaling_factor", "prequant_scaling_factor")
            found |= {"weight": _int4(weight, inputs, outputs), "weight_scale": scale}
        else:
            uses = tuple(kind for kind in KINDS if kind != "zero")
            found |= _eight_bits(stored, scale, outputs, floats=algorithm.startswith("FP8"))
        self._check_used(stored, uses)
        if "bias" in stored:
            found["bias"] = stored["bias"]
        if "prequant_scaling_factor" in stored:
            factors = stored["prequant_scaling_factor"]
            found["pre_quant_scale"] = reshaped(factors.name, factors, inputs)
        if "smoother" in stored:
            found["smoother"] = reshaped(stored["smoother"].name, stored["smoother"], inputs)
        return found

    def _check_used(self, stored: Stored, uses: Sequence[str]) -> None:
        """CheckpointError, naming it, if a tensor has no part in the form of its linear."""
        for kind, tensor in stored.items():
            if kind not in ("weight", "bias", "to_int", *uses):
                how = f"quantized by {self.algorithm}" if self.algorithm else "not quantized"
                raise CheckpointError(
                    f"the tensor {tensor.name!r} in {tensor.file} has no place in a linear that is {how}, "
                    f"with a weight of {stored['weight'].spelling}",
                    hint="config.json ('quantization') and the weights belong to different checkpoints",
                )

    def _rearranged(
        self, weight: StoredTensor, scale: StoredTensor, bits: int, inputs: int, outputs: int
    ) -> SourceTensor:
        gpu = self.gpu or self._told(weight, scale, bits, inputs, outputs)
        return rearranged(weight, bits, inputs, outputs, ARRANGEMENTS[gpu])

    def _told(self, weight: StoredTensor, scale: StoredTensor, bits: int, inputs: int, outputs: int) -> str:
        """The arrangement that a matrix tells, from then on for all; CheckpointError if it has none that is known."""
        found = fitting(weight, read_stored(scale, self.folder), bits, inputs, outputs, self.folder)
        if not found:
            raise CheckpointError(
                f"the integers of {weight.name!r} in {weight.file} are in no order that llmc knows: "
                f"not that for {', '.join(ARRANGEMENTS)}",
                hint="compile the checkpoint that it was converted from, and let llmc quantize it",
            )
        if inputs > TILE:  # outputs of fewer inputs do not take turns on any GPU
            self.gpu = found[0]
            if len(found) > 1:
                self.notes.append(
                    f"the integers may be in the order for {' or '.join(found)}; the first is taken (another: "
                    f"--weights-format tensorrt-llm:gpu={found[1]})"
                )
        return found[0]

    def _by_groups(self, stored: Stored, scale: StoredTensor, bits: int, inputs: int, outputs: int) -> Linear:
        """Integers by groups of inputs, with products of zero points and scales beside the scales, `[groups, N]`."""
        if len(scale.shape) != 2 or scale.shape[1] != outputs:
            raise CheckpointError(
                f"the tensor {scale.name!r} in {scale.file} is {shape_text(scale.shape)}, not [groups,{outputs}]"
            )
        usual: Arrangement = ARRANGEMENTS[self.gpu or "ampere"]
        found: Linear = {
            "weight": rearranged(stored["weight"], bits, inputs, outputs, usual),
            "weight_scale": transposed(scale.name, scale),
        }
        if "zero" in stored:
            self._check_zeros(stored["zero"], scale, bits)
            found["weight_zero"] = transposed(scale.name, _zeros(stored["zero"], scale, bits))
        return found

    def _check_zeros(self, zero: StoredTensor, scale: StoredTensor, bits: int) -> None:
        """CheckpointError if zero points are no integers of the weight's type."""
        values = -read_stored(zero, self.folder).double() / read_stored(scale, self.folder).double()
        half = 1 << (bits - 1)
        rounded = values.round()
        if bool(((values - rounded).abs() > _ROUGHLY).any() | (rounded < -half).any() | (rounded >= half).any()):
            raise CheckpointError(
                f"the tensor {zero.name!r} in {zero.file} has zero points that are no integers of {bits} bits",
                hint="compile the checkpoint that it was converted from",
            )


def _is_float(weight: StoredTensor, inputs: int, outputs: int) -> bool:
    """Whether a matrix is stored as floats: what is smaller is several integers in each."""
    return weight.dtype in _FLOATS and weight.elements >= inputs * outputs


def _int4(weight: StoredTensor, inputs: int, outputs: int) -> SourceTensor:
    """Bytes `[N / 2, K]` of two outputs each, the even one in the low half."""
    if weight.shape != (outputs // 2, inputs) or outputs % 2:
        raise CheckpointError(
            f"the tensor {weight.name!r} in {weight.file} is {shape_text(weight.shape)}, "
            f"not two outputs in a byte of [{outputs},{inputs}]",
            hint="config.json and the weights belong to different models",
        )
    pairs = replace(weight, dtype=DType.u8)
    return ComposedTensor(
        weight.name,
        (pairs,),
        (outputs, inputs),
        DType.i4,
        lambda b, xs, n: b.unpack(xs[0], bits=4, axis=0, signed=True, name=n),
    )


def _eight_bits(stored: Stored, scale: StoredTensor, outputs: int, *, floats: bool) -> Linear:
    """Integers or 8-bit floats as they are, and one scale or one for each output.

    Older SmoothQuant checkpoints with static inputs store what products of integers are multiplied by to become outputs
    in 8 bits, and the scale of outputs, `act_scale`: both scales together, divided by that of inputs.
    """
    weight = stored["weight"]
    found: Linear = {"weight": replace(weight, dtype=DType.f8e4m3) if floats else weight}
    column = (outputs, 1) if scale.elements == outputs and outputs > 1 else (1, 1)
    found["weight_scale"] = reshaped(scale.name, scale, *column)
    if "activation_scaling_factor" in stored:
        found["input_scale"] = stored["activation_scaling_factor"]
    elif "to_int" in stored and "act_scale" in stored:
        parts = [reshaped(stored[kind].name, stored[kind], 1, 1) for kind in ("act_scale", "to_int")]
        found["weight_scale"] = _product(scale.name, [found["weight_scale"], *parts])
        found["input_scale"] = _inverse(stored["to_int"])
    return found


def _product(name: str, parts: Sequence[SourceTensor]) -> SourceTensor:
    """The product of tensors of float32, of which the first has the shape of the result."""

    def build(b: Builder, xs: Sequence[Value], result: str) -> Value:
        return b.mul(b.mul(xs[0], xs[1], name=f"{result}.partly"), xs[2], name=result)

    return ComposedTensor(name, tuple(parts), parts[0].shape, DType.f32, build)


def _inverse(tensor: SourceTensor) -> SourceTensor:
    """One divided by each number, in float32."""

    def build(b: Builder, xs: Sequence[Value], name: str) -> Value:
        one = b.literal(dtype=DType.f32, shape=(1,), values=(1.0,), name=f"{name}.one")
        return b.div(one, xs[0], name=name)

    return ComposedTensor(tensor.name, (tensor,), tensor.shape, DType.f32, build)


def _zeros(zero: StoredTensor, scale: StoredTensor, bits: int) -> SourceTensor:
    """Zero points from their products with scales, negated."""

    def build(b: Builder, xs: Sequence[Value], name: str) -> Value:
        negated = b.scale(xs[0], factor=-1.0, name=f"{name}.products")
        return b.quantize(negated, xs[1], dtype=DType.i4 if bits == 4 else DType.i8, name=name)

    return ComposedTensor(zero.name, (zero, scale), zero.shape, DType.i4 if bits == 4 else DType.i8, build)
