"""Plug-ins as TensorRT wants them: Python objects with the interface `IPluginV3`.

A builder needs of it what its result is like, a runtime what it launches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from compiler.trt_network.attention import AttentionSpec
from compiler.trt_network.plugin_spec import PluginSpec
from compiler.trt_network.products import ProductSpec

SPECS: Mapping[str, type[PluginSpec]] = {spec.plugin: spec for spec in (ProductSpec, AttentionSpec)}
"""What a layer of each plug-in computes, by the plug-in's name."""

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

    def __init__(self, start: Callable[[PluginSpec], Enqueue] | None = None, *, lasting: bool = False) -> None:
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


def plugin_of(trt: Any, spec: PluginSpec, kernels: PluginKernels) -> Any:
    """The plug-in object of a layer."""
    return _plugin_class(trt, in_place=bool(spec.in_place))(spec, kernels)


@cache
def _plugin_class(trt: Any, *, in_place: bool) -> Any:
    """The class of plug-ins, those that write to inputs in place apart: that takes a newer interface."""
    build = trt.IPluginV3OneBuildV2 if in_place else trt.IPluginV3OneBuild
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, build, trt.IPluginV3OneRuntime)

    class Plugin(*bases):  # type: ignore[misc]
        """See `compiler.trt_network.plugin_spec`. The methods are TensorRT's."""

        def __init__(self, spec: PluginSpec, kernels: PluginKernels) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_namespace, self.plugin_name = spec.plugin.split("::")
            self.plugin_version, self.num_outputs = spec.version, len(spec.results)
            self.spec, self.kernels = spec, kernels
            self.launch: Enqueue | None = None
            kernels.keep(self)

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self.spec, self.kernels)

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

        def get_aliased_input(self, output: int) -> int:
            return dict(self.spec.in_place).get(output, -1)

        def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
            names = self.spec.types(types[0].name)[len(types) :]
            return [getattr(trt.DataType, name) for name in names]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expressions: Any) -> list[Any]:
            shapes = []
            for like, last, _ in self.spec.results:
                shape = trt.DimsExprs(inputs[like])
                if last is not None:
                    shape[len(shape) - 1] = expressions.constant(last)
                shapes.append(shape)
            return shapes

        def supports_format_combination(self, position: int, tensors: Any, inputs: int) -> bool:
            given, wanted = tensors[position].desc, self.spec.types(tensors[0].desc.type.name)[position]
            return bool(given.format == trt.TensorFormat.LINEAR and given.type.name == wanted)

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
                self.kernels.failures.append(f"{self.spec.plugin} {self.spec.text}: {type(error).__name__}: {error}")
                return 1
            return 0

    return Plugin


def spec_of(plugin: str, fields: Any) -> PluginSpec:
    """The spec that a plug-in serialized; ValueError if it is of another plug-in or version."""
    for field in fields:
        if field.name == _FIELD:
            return SPECS[plugin].read(bytes(int(number) for number in field.data).decode())
    raise ValueError(f"a layer of {plugin} has no attributes")


def creator_of(trt: Any, plugin: str, kernels: PluginKernels) -> Any:
    """What makes the objects of a plug-in when a plan is loaded."""

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.plugin_namespace, self.name = plugin.split("::")
            self.plugin_version = SPECS[plugin].version
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            try:
                return plugin_of(trt, spec_of(plugin, fields), kernels)
            except (ValueError, TypeError) as error:
                kernels.failures.append(f"{plugin}: {error}")
                return None

    creator = Creator()
    kernels.keep(creator)
    return creator
