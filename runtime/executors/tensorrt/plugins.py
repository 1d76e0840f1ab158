"""The plug-ins that plans call: creators for TensorRT, whose objects launch kernels.

The kernels are another room's; they come as `PluginLauncher`s, by the name of the plug-in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from compiler.errors import TargetError
from compiler.trt_network.library import Library
from compiler.trt_network.plugin_class import SPECS, Enqueue, PluginKernels, creator_of
from compiler.trt_network.plugin_spec import PluginSpec
from runtime.executors.tensorrt.gpu_checks import EMULATE


class PluginTensor(NamedTuple):
    """A tensor that a layer reads or writes.

    Attributes:
        address: where it lies, on the device.
        dtype: TensorRT's name of its element type.
        shape: its shape; the elements lie densely, row by row.
    """

    address: int
    dtype: str
    shape: tuple[int, ...]


class PluginLauncher(Protocol):
    """Launches the kernels of a layer."""

    def __call__(self, inputs: Sequence[PluginTensor], outputs: Sequence[PluginTensor], stream: int) -> None:
        """Put the layer's work on a stream, given by CUDA's handle."""
        ...


MakeLauncher = Callable[[Any, torch.device], PluginLauncher]
"""Gives what launches the layers of a spec on a device."""
Launchers = Mapping[str, MakeLauncher]
"""By the name of the plug-in."""

NO_LAUNCHERS: Launchers = {}

# TensorRT keeps creators until the process ends, so a package is given each of them once.
_REGISTERED: dict[str, dict[str, PluginKernels]] = {}
_FAILURES: dict[str, list[str]] = {}


def register_plugins(library: Library, names: Collection[str], launchers: Launchers) -> list[str]:
    """Let TensorRT load plans that call plug-ins.

    Args:
        library: the package.
        names: the plug-ins that the plans call.
        launchers: what there is to launch, by the name of the plug-in.

    Returns:
        Where it is written down why layers of plug-ins could not be made or launched.

    Raises:
        TargetError: naming the plug-ins, if this llmc, this machine or this version of the package cannot run them.
    """
    if not names:
        return []
    if lacking := missing_for_plugins(library, names, launchers):
        raise TargetError(
            f"the engine's plans call the plug-ins {', '.join(sorted(names))}, and {lacking}",
            hint=f"run it with --executor torch, compile it without the target's option plugins, or {EMULATE}",
        )
    known = _REGISTERED.setdefault(library.target, {})
    failures = _FAILURES.setdefault(library.target, [])
    for name in sorted(set(names) - known.keys()):
        known[name] = _register(library, name, launchers[name], failures)
    return failures


def _register(library: Library, name: str, make: MakeLauncher, failures: list[str]) -> PluginKernels:
    def start(spec: PluginSpec) -> Enqueue:
        return enqueue_of(make(spec, torch.device("cuda", torch.cuda.current_device())))

    kernels = PluginKernels(start, lasting=True)
    kernels.failures = failures
    namespace = name.split("::")[0]
    if not library.trt.get_plugin_registry().register_creator(creator_of(library.trt, name, kernels), namespace):
        raise TargetError(f"{library.name} refused to register the plug-in {name} {SPECS[name].version}", hint=EMULATE)
    return kernels


def missing_for_plugins(library: Library, names: Collection[str], launchers: Launchers) -> str | None:
    """What is missing to run plug-ins, as a clause; None if nothing is."""
    if unknown := sorted(set(names) - SPECS.keys()):
        return f"this llmc does not know {', '.join(unknown)}"
    if not all(hasattr(library.trt, name) for name in ("IPluginV3", "IPluginCreatorV3One", "get_plugin_registry")):
        return f"{library.name} has no plug-ins"
    if absent := sorted(set(names) - launchers.keys()):
        return f"there are no kernels for {', '.join(absent)}: the Python package triton is not installed"
    return None


def enqueue_of(launch: PluginLauncher) -> Enqueue:
    """What TensorRT's call of a plug-in does, by what launches its kernels."""

    def enqueue(
        inputs: Sequence[Any], outputs: Sequence[Any], sources: Sequence[int], results: Sequence[int], stream: int
    ) -> None:
        given = [_tensor(description, address) for description, address in zip(inputs, sources, strict=True)]
        launch(given, [_tensor(*each) for each in zip(outputs, results, strict=True)], stream)

    return enqueue


def _tensor(description: Any, address: int) -> PluginTensor:
    return PluginTensor(int(address), description.type.name, tuple(description.dims))
