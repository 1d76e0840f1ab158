"""From a rank's graph to the files of its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compiler.backend_trt.define import define_network
from compiler.backend_trt.messages import Messages, ops_named
from compiler.backend_trt.options import BuildOptions, configure
from compiler.backend_trt.places import find_constants
from compiler.backend_trt.profiles import add_profiles, profiles_of
from compiler.backend_trt.progress import Progress, progress_monitor
from compiler.backend_trt.readback import read_back
from compiler.backend_trt.support import require_support
from compiler.errors import TargetError
from compiler.ir.graph import Graph
from compiler.ir.op import Value
from compiler.ir.specialize import bind_dims
from compiler.trt.library import Library
from compiler.trt.record import NetworkRecord, Place


@dataclass(frozen=True)
class BuiltEngine:
    """The files of a rank, relative to the engine directory, and what they hold.

    Attributes:
        files: the files by role: `engine` and `network`, and `constants` if the engine does not hold them all.
        record: the network that was built.
        places: where each constant of the graph lies, by the value's name.
    """

    files: Mapping[str, str]
    record: NetworkRecord
    places: Mapping[str, Place]


def fixed_capacity(graph: Graph) -> Graph:
    """The graph with the capacity of its caches fixed to the largest: TensorRT updates caches of fixed length only."""
    return bind_dims(graph, {"C": graph.dims["C"].max}) if "C" in graph.dims else graph


def build_engine(
    library: Library,
    graph: Graph,
    load: Callable[[Value], Tensor],
    folder: Path,
    *,
    name: str = "rank0",
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build a rank's engine into `folder`.

    Args:
        library: the TensorRT package.
        graph: the graph after all passes, its capacity fixed, its constants stored or literal.
        load: gives the value of a constant; mapped files keep memory small.
        folder: the engine directory under construction.
        name: what the files are called before their suffix.
        options: how to build.
        progress: called with the steps done and in total, as TensorRT reports them.

    Raises:
        TargetError: if an op cannot be emitted, or TensorRT refuses the network, naming the op and its origin.
        OSError: if the folder cannot be written.
    """
    require_support(graph)
    trt = library.trt
    messages = Messages(trt)
    builder = trt.Builder(messages.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    try:
        emission = define_network(trt, network, graph, load)
    except TargetError as error:
        raise TargetError(f"{error.message}; TensorRT says: {messages.text()}", hint=error.hint) from error
    with messages.muted():
        record = read_back(trt, network, library.name)
    config = builder.create_builder_config()
    configure(trt, config, options or BuildOptions())
    monitor = progress_monitor(trt, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    profiles = add_profiles(builder, config, network, profiles_of(graph), graph)

    engine = folder / f"{name}.engine"
    _serialize(trt, builder, network, config, engine, graph, messages)
    rest = folder / f"{name}.constants"
    constants = find_constants(engine, emission.constants, rest)
    record = replace(record, profiles=profiles, constants=constants)
    network_file = folder / f"{name}.network.json"
    record.write(network_file)
    files = {"engine": engine.name, "network": network_file.name}
    return BuiltEngine(files | ({"constants": rest.name} if rest.exists() else {}), record, _by_value(graph, constants))


def _by_value(graph: Graph, constants: Mapping[str, Place]) -> dict[str, Place]:
    """The places of the graph's own constants: a layer's name is the value's, perhaps with a detail after a slash."""
    found: dict[str, Place] = {}
    for layer, place in constants.items():
        name = layer.partition("/")[0]
        if name in graph.values:
            found.setdefault(name, place)
    return found


def _serialize(trt: Any, builder: Any, network: Any, config: Any, path: Path, graph: Graph, messages: Messages) -> None:
    with path.open("wb") as file:

        class Writer(trt.IStreamWriter):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IStreamWriter.__init__(self)

            def write(self, data: bytes) -> int:
                return file.write(data)

        done = builder.build_serialized_network_to_stream(network, config, Writer())
    if done and path.stat().st_size:
        return
    named = ops_named(graph, messages.errors)
    where = f" at {named[0].kind.name} %{named[0].name} from {named[0].origin}" if named else ""
    raise TargetError(
        f"TensorRT could not build the engine{where}: {messages.text()}",
        hint="leave out the pass that made the op, or build for torch: --target torch",
    )
