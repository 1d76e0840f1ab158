"""The plug-in of products as TensorRT wants it: a Python object with the interface `IPluginV3`.

A builder needs of it what its result is like, a runtime what it launches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from compiler.trt_network.products import PRODUCT, VERSION, ProductSpec

Enqueue = Callable[[Sequence[Any], Sequence[Any], Sequence[int], Sequence[int], int], None]
"""Launches a layer: descriptions of the inputs and outputs, their addresses, and CUDA's handle of the stream."""

_FIELD = "spec"


class PluginKernels:
    """What plug-in objects share. TensorRT makes copies of them, which must live as long as it uses them.

    Attributes:
        start: gives the function that launches the layer of a spec, on the current device; None where nothing is ever
            launched.
        failures: why layers could not be made or launched, since they were taken last.
        kept: every plug-in object.
    """

    def __init__(self, start: Callable[[ProductSpec], Enqueue] | None = None, *, lasting: bool = False) -> None:
        """Keep objects until this one goes; for good if `lasting`.

        TensorRT may use an object until the process ends, and Python drops its own before that.
        """
        self.start = start
        self.failures: list[str] = []
        self.kept: list[Any] = []
        self._lasting = lasting

    def keep(self, made: Any) -> None:
        """Let an object live."""
        self.kept.append(made)
        if self._lasting:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


def plugin_of(trt: Any, spec: ProductSpec, kernels: PluginKernels) -> Any:
    """The plug-in object of a layer."""
    return _product_class(trt)(spec, kernels)


@cache
def _product_class(trt: Any) -> Any:
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class Product(*bases):  # type: ignore[misc]
        """See `compiler.trt_network.products`. The methods are TensorRT's."""

        def __init__(self, spec: ProductSpec, kernels: PluginKernels) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_namespace, self.plugin_name = PRODUCT.split("::")
            self.plugin_version, self.num_outputs = VERSION, 1
            self.spec, self.kernels = spec, kernels
            self.launch: Enqueue | None = None
            kernels.keep(self)

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Product(self.spec, self.kernels)

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            """Every shape will do."""

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            """Every shape will do."""

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            return 0

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None:
            """There is one way to compute it, as far as TensorRT knows."""

        def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
            return [getattr(trt.DataType, self.spec.rounded) if self.spec.rounded else types[0]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expressions: Any) -> list[Any]:
            shape = trt.DimsExprs(inputs[0])
            shape[len(shape) - 1] = expressions.constant(self.spec.rows)
            return [shape]

        def supports_format_combination(self, position: int, tensors: Any, inputs: int) -> bool:
            given, wanted = tensors[position].desc, self._types(tensors[0].desc.type)[position]
            return bool(given.format == trt.TensorFormat.LINEAR and given.type == wanted)

        def _types(self, dtype: Any) -> list[Any]:
            kinds, spec = trt.DataType, self.spec
            if spec.rounded:
                x = codes = kinds.FP8 if spec.form == "float8" else kinds.INT8
                result = getattr(kinds, spec.rounded)
            else:
                x = result = dtype if dtype in (kinds.FLOAT, kinds.HALF, kinds.BF16) else kinds.HALF
                codes = x if spec.form == "dense" else kinds.INT8
            scales = dict.fromkeys(("x_scale", "x1_scale", "scale"), kinds.FLOAT)
            types = {"x": x, "x1": x, "codes": codes, **scales, "zero": kinds.INT8, "bias": result}
            return [*(types[name] for name in spec.inputs), result]

        def get_fields_to_serialize(self) -> Any:
            # Numbers, one for each character: the type of fields that every version gives back as it was.
            data = np.frombuffer(self.spec.text.encode(), np.uint8).astype(np.int32)
            self.held = data, trt.PluginField(_FIELD, data, trt.PluginFieldType.INT32)
            return trt.PluginFieldCollection([self.held[1]])

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> int:
            if self.kernels.start is None:  # a builder that measures: there is nothing to choose between
                return 0
            try:
                if self.launch is None:
                    self.launch = self.kernels.start(self.spec)
                self.launch(input_desc, output_desc, inputs, outputs, stream)
            except Exception as error:  # noqa: BLE001  # TensorRT takes a number, and calls this from C++
                self.kernels.failures.append(f"{PRODUCT} {self.spec.text}: {type(error).__name__}: {error}")
                return 1
            return 0

    return Product


def spec_of(fields: Any) -> ProductSpec:
    """The spec that a plug-in serialized; ValueError if it is of another plug-in or version."""
    for field in fields:
        if field.name == _FIELD:
            return ProductSpec.read(bytes(int(number) for number in field.data).decode())
    raise ValueError(f"a layer of {PRODUCT} has no attributes")


def creator_of(trt: Any, kernels: PluginKernels) -> Any:
    """What makes the plug-in objects of a plan when it is loaded."""

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.plugin_namespace, self.name = PRODUCT.split("::")
            self.plugin_version = VERSION
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            try:
                return plugin_of(trt, spec_of(fields), kernels)
            except (ValueError, TypeError) as error:
                kernels.failures.append(f"{PRODUCT}: {error}")
                return None

    creator = Creator()
    kernels.keep(creator)
    return creator
