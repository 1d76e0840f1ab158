"""llmc's kernels behind the plug-ins of TensorRT plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from compiler.errors import EngineError
from compiler.trt_emulator.memory import TORCH_TYPES, tensor_at
from compiler.trt_network.attention import ATTENTION, AttentionSpec
from compiler.trt_network.products import PRODUCT, ProductSpec
from runtime.executors.cuda.kernels.attention import AttentionForm, CacheScales, Rotary, Workspace, attend_rows
from runtime.executors.cuda.kernels.products import Product, Rounded, Section, Tuning
from runtime.executors.cuda.kernels.weights import FLOAT8_BIAS, JoinedWeight
from runtime.executors.tensorrt.plugins import Launchers, PluginTensor

_INPUTS = ("x", "x1")
_MOST_KNOWN = 256  # tensors of a layer: contexts for other steps have others


class _Launcher:
    """What launchers have in common: the tensors that they have met."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[PluginTensor, Tensor] = {}

    def _tensor(self, tensor: PluginTensor) -> Tensor:
        """The tensor at an address. It is kept: making one takes longer than launching a kernel."""
        if tensor not in self._tensors:
            _make_room(self._tensors)
            self._tensors[tensor] = tensor_on(self.device, tensor)
        return self._tensors[tensor]


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= _MOST_KNOWN:
        known.clear()


class ProductLauncher(_Launcher):
    """Launches the layers of one product."""

    def __init__(self, spec: ProductSpec, device: torch.device) -> None:
        """Know what to multiply by; the weight is where the first call says.

        Args:
            spec: what is computed.
            device: where.
        """
        super().__init__(device)
        self.spec = spec
        self._products: dict[tuple[tuple[str, PluginTensor], ...], Product] = {}

    def __call__(self, inputs: Sequence[PluginTensor], outputs: Sequence[PluginTensor], stream: int) -> None:
        """Put the product of `inputs`, in the order of `ProductSpec.inputs`, on a stream; see `PluginLauncher`."""
        (output,) = outputs
        given = dict(zip(self.spec.inputs, inputs, strict=True))
        with _on(stream, self.device):
            xs = [self._rows(given, *each) for each in zip(_INPUTS, self.spec.columns_read, strict=False)]
            product = self._product(tuple(given.items()), TORCH_TYPES[output.dtype])
            product(xs, out=self._tensor(output).view(-1, self.spec.rows))

    def _rows(self, given: dict[str, PluginTensor], name: str, columns: slice) -> Tensor | Rounded:
        """An input `[T, K]`, which is taken out of `given`: some columns of a tensor."""
        x, x_scale = given.pop(name), given.pop(f"{name}_scale", None)
        rows = self._tensor(x).view(-1, x.shape[-1])[:, columns]
        return rows if x_scale is None else Rounded(rows, self._scales(x_scale))

    def _scales(self, x_scale: PluginTensor) -> Tensor:
        """The scales of activations: one, or one for each row."""
        scales = self._tensor(x_scale)
        return scales.view(1) if scales.numel() == 1 else scales.view(-1, 1)

    def _product(self, parts: tuple[tuple[str, PluginTensor], ...], dtype: torch.dtype) -> Product:
        if parts not in self._products:
            _make_room(self._products)
            given = {name: self._tensor(tensor) for name, tensor in parts}
            sections = [Section(*part) for part in self.spec.parts]
            weight = joined_weight(self.spec, given, dtype)
            self._products[parts] = Product.over(weight, sections, given.get("bias"), tuning(self.device))
        return self._products[parts]


class AttentionLauncher(_Launcher):
    """Launches the layers of one attention."""

    def __init__(self, spec: AttentionSpec, device: torch.device) -> None:
        """Know what to compute, and where."""
        super().__init__(device)
        self.spec = spec
        self.form = AttentionForm(spec.heads, spec.kv_heads, spec.width, spec.scale, spec.window)

    def __call__(self, inputs: Sequence[PluginTensor], outputs: Sequence[PluginTensor], stream: int) -> None:
        """Put attention over `inputs`, in the order of `AttentionSpec.inputs`, on a stream; see `PluginLauncher`.

        Caches that are given apart from where they shall be written to are copied there first.
        """
        spec = self.spec
        given = dict(zip(spec.inputs, inputs, strict=True))
        with _on(stream, self.device):
            tensors = {name: self._tensor(tensor) for name, tensor in given.items()}
            for name, output in zip(("k_cache", "v_cache"), outputs[1:], strict=True):
                if given[name].address != output.address:
                    tensors[name] = self._tensor(output).copy_(tensors[name])
            context = self._tensor(outputs[0])
            batch = len(context)
            q, k, v = (
                tensors[f"x{number}"].view(batch, -1)[:, start : start + heads * spec.width]
                for (number, start), heads in zip(spec.reads, (spec.heads, *[spec.kv_heads] * 2), strict=True)
            )
            rotary = None
            if spec.turned:
                cos, sin = (tensors[name].view(batch, -1) for name in ("cos", "sin"))
                rotary = Rotary(cos, sin, spec.interleaved)
            slopes = tensors["slopes"].view(-1) if spec.alibi else None
            scales = CacheScales(tensors["k_scale"], tensors["v_scale"]) if spec.cache else None
            attend_rows(
                q, k, v, tensors["k_cache"], tensors["v_cache"], tensors["past"], row_numbers(batch, self.device),
                self.form, context.view(batch, -1), rotary, slopes, scales, workspace=workspace(self.device),
            )  # fmt: skip


@cache
def row_numbers(count: int, device: torch.device) -> Tensor:
    """The numbers of so many rows, `i32[count, 1]`."""
    return torch.arange(count, dtype=torch.int32, device=device)[:, None]


@cache
def workspace(device: torch.device) -> Workspace:
    """The memory that all attention on a device shares: its kernels run one after the other."""
    return Workspace()


def joined_weight(spec: ProductSpec, parts: Mapping[str, Tensor], dtype: torch.dtype) -> JoinedWeight:
    """The weight of a product from the inputs of its layer, as they lie; `dtype` is that of the result.

    Raises:
        EngineError: if scales are not in the units that the kernels want.
    """
    codes = parts["codes"]
    if spec.form == "float8" and spec.factor != (FLOAT8_BIAS if dtype is torch.float16 else 1.0):
        raise EngineError(f"scales of float8 are {spec.factor:g} times what they are", hint="compile the engine again")
    q = codes.view(torch.uint8) if spec.form in ("int4", "float8") else codes
    return JoinedWeight(
        spec.form, q, parts.get("scale"), parts.get("zero"), spec.group, spec.chunk, spec.rows,
        spec.widths or (spec.columns,), dtype, whole=spec.whole or (not spec.zero and spec.group == spec.columns),
    )  # fmt: skip


@cache
def tuning(device: torch.device) -> Tuning:
    """The launches of all products on a device."""
    return Tuning.of(device)


def tensor_on(device: torch.device, tensor: PluginTensor) -> Tensor:
    """The tensor at an address of a device; it shares the memory and does not keep it alive."""
    if device.type == "cpu":
        return tensor_at(*tensor)
    dtype = TORCH_TYPES[tensor.dtype]
    count = prod(tensor.shape) * dtype.itemsize
    if count == 0:
        return torch.empty(tensor.shape, dtype=dtype, device=device)
    data = torch.as_tensor(_Memory(tensor.address, count), device=device)
    return data.view(dtype).view(tensor.shape)


class _Memory:
    """Bytes of a GPU, as torch and others take them."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 2,
        }  # fmt: skip


def _on(stream: int, device: torch.device) -> AbstractContextManager[Any]:
    """A block whose kernels go to a stream."""
    if device.type == "cpu" or torch.cuda.current_stream(device).cuda_stream == stream:
        return nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(stream, device=device))


LAUNCHERS: Launchers = {PRODUCT: ProductLauncher, ATTENTION: AttentionLauncher}
"""What launches the layers of each plug-in."""
