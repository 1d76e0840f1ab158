"""A TensorRT network as plain data: what was built, readable where no TensorRT is installed.

A record is read back from TensorRT's own objects after a network was defined (`compiler.backend_trt.readback`), so it
says what TensorRT was given, not what the emitter meant. It is stored beside the plan as JSON. Matrices of weights are
inputs of the network, so that all plans of an engine share one copy of them, in the rank's weights file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from compiler.errors import EngineError
from compiler.ir.types import TensorType
from compiler.os_errors import reading_hint
from compiler.trt_network.dtypes import DataType

SCHEMA = 3


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of the network, or one of the weights file as TensorRT would name its type.

    Attributes:
        name: TensorRT's name of it, or its name in the file.
        dtype: the name of a `compiler.trt_network.dtypes.DataType`.
        shape: the dims; -1 for one that is known at run time only.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def data_type(self) -> DataType:
        """The element type; EngineError for a name that is not known."""
        try:
            return DataType[self.dtype]
        except KeyError:
            raise EngineError(
                f"the tensor {self.name!r} of a network is of type {self.dtype}, which llmc does not know",
                hint="compile the engine again with this llmc",
            ) from None

    @property
    def type(self) -> TensorType:
        """The type in the IR, for a tensor of fixed dims; EngineError if the IR has no such element type."""
        dtype = self.data_type.dtype
        if dtype is None:
            raise EngineError(f"the tensor {self.name!r} of a network is of type {self.dtype}, which llmc does not use")
        return TensorType(dtype, self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of a tensor of fixed dims, stored densely; EngineError for an unknown element type."""
        return (prod(self.shape) * self.data_type.bits + 7) // 8


@dataclass(frozen=True)
class Quantized:
    """A weight that is dequantized when it is loaded: `(codes - zero) * scale`, in float32, rounded once.

    Attributes:
        codes: integers or FP8, `[N, K]`; like the others, a tensor of the weights file.
        scale: the scales of blocks; as many dims as the codes, each of which divides theirs.
        zero: the zero points, of the scale's shape; None if they are 0.
        dtype: the element type of the result.
    """

    codes: TensorRecord
    scale: TensorRecord
    zero: TensorRecord | None
    dtype: str


@dataclass(frozen=True)
class Arranged:
    """A part of a quantized weight `[N, K]` that is arranged for the kernels of plug-ins when it is loaded.

    Attributes:
        part: `codes`, `scale`, `zero` or `bias`; a bias, and the codes of 8 bits, are joined to others only.
        stored: the tensor of the weights file.
        rows: N.
        columns: K.
        group: how many columns share a scale.
        chunk: how many columns of int4 lie together; 0 of other parts.
        factor: what scales are multiplied by.
    """

    part: str
    stored: TensorRecord
    rows: int
    columns: int
    group: int
    chunk: int = 0
    factor: float = 1.0

    @property
    def nbytes(self) -> int:
        """The bytes of what is arranged."""
        if self.part == "bias":
            return self.stored.nbytes
        if self.part == "codes":
            return self.rows * self.columns // (2 if self.chunk else 1)
        return self.rows * (self.columns // self.group) * (4 if self.part == "scale" else 1)

    @property
    def identity(self) -> str:
        """What tells it from other arrangements."""
        return f"{self.stored.name} arranged as {self.rows}x{self.columns}x{self.group}x{self.chunk}"


@dataclass(frozen=True)
class Joined:
    """The same part of the weights of several linears, which are one product: it is put together when it is loaded.

    Attributes:
        parts: `parts[j][i]` is what the linear has whose input is the `i`-th and whose result is the `j`-th section; a
            bias is added up over the inputs, and None where a linear has none.
        sizes: how many columns of the result each section has.
        dtype: the element type of the result.
    """

    parts: tuple[tuple[Arranged | None, ...], ...]
    sizes: tuple[int, ...]
    dtype: str

    @property
    def known(self) -> tuple[Arranged, ...]:
        """The parts that there are; at least one."""
        return tuple(part for row in self.parts for part in row if part is not None)

    @property
    def nbytes(self) -> int:
        """The bytes of the result."""
        first = self.known[0]
        if first.part == "bias":
            return sum(self.sizes) * DataType[self.dtype].bits // 8
        return sum(part.nbytes for part in self.known)


@dataclass(frozen=True)
class Weight:
    """Values that lie in the rank's weights file: dense, row-major, little-endian, as many as the tensor's shape says.

    Attributes:
        tensor: the name of a tensor of the file.
        offset: bytes from the start of that tensor; more than 0 for some of its rows.
        quantized: how to make the values from others of the file; None if that is not how they come about.
        arranged: how to arrange a tensor of the file; None if that is not how they come about.
        joined: how to join parts of weights of the file; None if that is not how they come about. Without any of these
            they lie there as they are.
    """

    tensor: str
    offset: int = 0
    quantized: Quantized | None = None
    arranged: Arranged | None = None
    joined: Joined | None = None

    @property
    def made(self) -> Made | None:
        """How the values are made when they are loaded; None if they lie in the file as they are."""
        return self.quantized or self.arranged or self.joined

    @property
    def source(self) -> str:
        """What the bytes are called that it is some of: those of the tensor, or of what is made of it."""
        if self.joined:
            return " joined to ".join(part.identity if part else "none" for row in self.joined.parts for part in row)
        if self.arranged:
            return self.arranged.identity
        return f"{self.tensor} as {self.quantized.dtype}" if self.quantized else self.tensor


Made = Quantized | Arranged | Joined
"""How values are made of those of the weights file."""
Constant = Weight | bytes
"""Where the values of a constant layer are: in the weights file, or the bytes themselves."""


@dataclass(frozen=True)
class LayerRecord:
    """A layer of the network.

    Attributes:
        name: TensorRT's name of it.
        kind: the member of `tensorrt.LayerType`, except ATTENTION, which stands for an attention with both of its
            boundary layers, and `NAMESPACE::NAME`, the layer of a plug-in.
        inputs: names of the tensors it reads, by position; None for one that is not set.
        outputs: names of the tensors it makes.
        params: its other properties under TensorRT's Python names; enumerations as the names of their members, dims as
            lists.
        metadata: the layer's metadata: the op's name in the IR, and where it came from.
    """

    name: str
    kind: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    metadata: str = ""

    @property
    def in_place(self) -> Sequence[tuple[int, int]]:
        """The numbers of the outputs that are inputs, written to in place, and of these inputs."""
        return ((0, 0),) if self.kind == "KV_CACHE_UPDATE" else self.params.get("in_place", ())


@dataclass(frozen=True)
class ProfileRecord:
    """An optimization profile: the least, the most usual and the largest shape of every input."""

    name: str
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class NetworkRecord:
    """A network, its layers in an order in which every tensor is made before it is read.

    Attributes:
        name: the network's name.
        package: the package and version that it was defined with, such as `tensorrt_rtx 1.6.1.120`.
        tensors: every tensor by name.
        layers: the layers.
        inputs: names of the inputs, in order.
        outputs: names of the outputs, in order.
        profiles: the optimization profiles, in order.
        weights: what lies at each input that is a weight, by the input's name; the other inputs are a step's.
        constants: the values of each CONSTANT layer, by the layer's name.
        positions: the inputs and outputs that pass between stages and have a row for each position whose logits are
            wanted; the others have one for each token.
        updates: for each output that holds what a run adds to a cache, `[B, heads, S, D]`, the cache's input. Whoever
            runs the network writes it there, from the positions `past_len` of each row on.
    """

    name: str
    package: str
    tensors: Mapping[str, TensorRecord]
    layers: tuple[LayerRecord, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    profiles: tuple[ProfileRecord, ...] = ()
    weights: Mapping[str, Weight] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    positions: tuple[str, ...] = ()
    updates: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """For each output that a cache update or a plug-in makes in place, the input whose memory it must share."""
        cached = {
            layer.outputs[output]: layer.inputs[source] for layer in self.layers for output, source in layer.in_place
        }
        return {name: source for name in self.outputs if (source := cached.get(name)) is not None}

    @property
    def plugins(self) -> frozenset[str]:
        """The plug-ins whose layers it has, as `NAMESPACE::NAME`."""
        return frozenset(layer.kind for layer in self.layers if "::" in layer.kind)

    @property
    def caches(self) -> Mapping[str, str]:
        """For each output that is the next state of a cache, or what is new in it, the cache's input."""
        return {**self.aliases, **self.updates}

    def write(self, path: Path) -> None:
        """Write the record as JSON; OSError if that fails."""
        content = {
            "schema": SCHEMA,
            **asdict(replace(self, weights={}, constants={})),
            "weights": {name: _weight_to_json(weight) for name, weight in self.weights.items()},
            "tensors": [asdict(tensor) for tensor in self.tensors.values()],
            "constants": {name: _constant_to_json(constant) for name, constant in self.constants.items()},
        }
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def read_record(path: Path) -> NetworkRecord:
    """The record in a file that `NetworkRecord.write` wrote.

    Raises:
        EngineError: if it cannot be read, or is of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"cannot read {path}: {error}", hint=reading_hint(error, "compile the engine again")
        ) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise EngineError(
            f"{path} is no network record of version {SCHEMA}", hint="compile the engine again with this llmc"
        )
    try:
        return _record(content)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path} is damaged: {error!r}", hint="compile the engine again") from None


def _record(content: Mapping[str, Any]) -> NetworkRecord:
    return NetworkRecord(
        name=content["name"],
        package=content["package"],
        tensors={t["name"]: TensorRecord(t["name"], t["dtype"], tuple(t["shape"])) for t in content["tensors"]},
        layers=tuple(
            LayerRecord(
                item["name"],
                item["kind"],
                tuple(item["inputs"]),
                tuple(item["outputs"]),
                item["params"],
                item["metadata"],
            )
            for item in content["layers"]
        ),
        inputs=tuple(content["inputs"]),
        outputs=tuple(content["outputs"]),
        profiles=tuple(
            ProfileRecord(
                item["name"],
                {name: tuple(tuple(shape) for shape in shapes) for name, shapes in item["shapes"].items()},  # type: ignore[misc]
            )
            for item in content["profiles"]
        ),
        weights={name: _weight_from_json(weight) for name, weight in content["weights"].items()},
        constants={name: _constant_from_json(constant) for name, constant in content["constants"].items()},
        positions=tuple(content["positions"]),
        updates=dict(content.get("updates", {})),
    )


def _constant_to_json(constant: Constant) -> Any:
    return _weight_to_json(constant) if isinstance(constant, Weight) else base64.b64encode(constant).decode()


def _weight_to_json(weight: Weight) -> dict[str, Any]:
    quantized = weight.quantized and _quantized_to_json(weight.quantized)
    place = {"tensor": weight.tensor, "offset": weight.offset, "quantized": quantized}
    if weight.joined:
        return {**place, "joined": _joined_to_json(weight.joined)}
    return {**place, "arranged": _arranged_to_json(weight.arranged)} if weight.arranged else place


def _joined_to_json(joined: Joined) -> dict[str, Any]:
    parts = [[part and _arranged_to_json(part) for part in row] for row in joined.parts]
    return {"parts": parts, "sizes": joined.sizes, "dtype": joined.dtype}


def _arranged_to_json(arranged: Arranged) -> dict[str, Any]:
    return {**asdict(arranged), "stored": _stored_to_json(arranged.stored)}


def _quantized_to_json(quantized: Quantized) -> dict[str, Any]:
    stored = {"codes": quantized.codes, "scale": quantized.scale, "zero": quantized.zero}
    return {**{word: _stored_to_json(tensor) for word, tensor in stored.items()}, "dtype": quantized.dtype}


def _stored_to_json(stored: TensorRecord | None) -> dict[str, Any] | None:
    return None if stored is None else {"tensor": stored.name, "dtype": stored.dtype, "shape": stored.shape}


def _constant_from_json(content: Any) -> Constant:
    return base64.b64decode(content, validate=True) if isinstance(content, str) else _weight_from_json(content)


def _weight_from_json(content: Mapping[str, Any]) -> Weight:
    quantized, arranged, joined = (content.get(word) for word in ("quantized", "arranged", "joined"))
    return Weight(
        content["tensor"],
        content["offset"],
        _quantized_from_json(quantized) if quantized else None,
        _arranged_from_json(arranged) if arranged else None,
        _joined_from_json(joined) if joined else None,
    )


def _arranged_from_json(content: Mapping[str, Any]) -> Arranged:
    return Arranged(**{**content, "stored": _stored_from_json(content["stored"])})


def _joined_from_json(content: Mapping[str, Any]) -> Joined:
    parts = tuple(tuple(part and _arranged_from_json(part) for part in row) for row in content["parts"])
    joined = Joined(parts, tuple(content["sizes"]), content["dtype"])
    if not joined.known:
        raise ValueError("joined weights without parts")
    return joined


def _stored_from_json(stored: Mapping[str, Any]) -> TensorRecord:
    return TensorRecord(stored["tensor"], stored["dtype"], tuple(stored["shape"]))


def _quantized_from_json(content: Mapping[str, Any]) -> Quantized:
    codes, scale, zero = (
        _stored_from_json(stored) if stored else None
        for stored in (content[word] for word in ("codes", "scale", "zero"))
    )
    if codes is None or scale is None:
        raise ValueError("a quantized weight without codes or scales")
    return Quantized(codes, scale, zero, content["dtype"])
