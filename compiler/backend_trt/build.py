"""From a rank's graph to its plans."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import Any

from compiler.backend_trt.builders import Builders
from compiler.backend_trt.checks import check_plans, products_of
from compiler.backend_trt.constants import Load
from compiler.backend_trt.define import NO_PLUGINS, Plugins, define_network, position_ends
from compiler.backend_trt.forms import apart
from compiler.backend_trt.named_ops import ops_named
from compiler.backend_trt.options import BuildOptions, configure
from compiler.backend_trt.plans import PlanSpec
from compiler.backend_trt.profile import add_profile
from compiler.backend_trt.progress import progress_monitor
from compiler.backend_trt.readback import read_back
from compiler.backend_trt.reuse import plan_cache, plan_key
from compiler.errors import TargetError
from compiler.ir.graph import Graph
from compiler.progress import Report, shared_progress
from compiler.trt_network.library import Library
from compiler.trt_network.messages import NO_GPU, Messages
from compiler.trt_network.plans import PlanFiles, Plans
from compiler.trt_network.plugin_layers import plugin_adder
from compiler.trt_network.record import read_record

_OTHERWISE = "leave out the pass that made the op, or build for torch: --target torch"
_SMALLER = (
    "give smaller sizes: --prompt-sizes first, then --capacities, --max-seq or --max-batch; "
    "--workers 1 builds one plan at a time"
)


def build_plans(
    library: Library,
    graph: Graph,
    load: Load,
    folder: Path,
    weights: str,
    *,
    name: str = "rank0",
    options: BuildOptions | None = None,
    progress: Report | None = None,
) -> str:
    """Build a rank's plans into `folder`, and the list of them; returns the name of the list's file.

    Args:
        library: the TensorRT package.
        graph: the graph after all passes, its weights stored in one file.
        load: gives the stored weights.
        folder: the engine directory under construction.
        weights: the name of the file of weights.
        name: what the files are called before their suffix.
        options: how to build.
        progress: called with how much of all plans is done and in total.

    Raises:
        TargetError: if an op cannot be emitted, or TensorRT refuses a network, naming the op and its origin.
        OSError: if the folder cannot be written.
    """
    options = options or BuildOptions()
    specs = check_plans(graph, options)
    plugins = Plugins(options.plugins, plugin_adder(library)) if options.plugins else NO_PLUGINS
    reports = shared_progress(progress, len(specs)) if progress else [None] * len(specs)

    def build(spec: PlanSpec, report: Report | None) -> PlanFiles:
        files = build_plan(
            library, graph, load, folder, spec, name=name, options=options, progress=report, plugins=plugins
        )
        if report:
            report(1, 1)  # plans that were built before take no steps
        return files

    with ThreadPoolExecutor(options.workers or cpu_count() or 1) as workers:
        files = tuple(workers.map(build, specs, reports))
    called = {plugin for plan in files for plugin in read_record(folder / plan.network).plugins}
    plans = Plans(weights, files, tuple(sorted(called)))
    file = f"{name}.plans.json"
    plans.write(folder / file)
    return file


def build_plan(
    library: Library,
    graph: Graph,
    load: Load,
    folder: Path,
    spec: PlanSpec,
    *,
    name: str,
    options: BuildOptions,
    progress: Report | None = None,
    plugins: Plugins = NO_PLUGINS,
) -> PlanFiles:
    """Build one plan; the arguments and errors are those of `build_plans`."""
    with Builders() as builders:
        return _build_plan(builders, library, graph, load, folder, spec, name, options, progress, plugins)


def _build_plan(
    builders: Builders,
    library: Library,
    graph: Graph,
    load: Load,
    folder: Path,
    spec: PlanSpec,
    name: str,
    options: BuildOptions,
    progress: Report | None,
    plugins: Plugins,
) -> PlanFiles:
    trt = library.trt
    positions = position_ends(graph)
    graph = spec.specialize(graph)
    # Measured on an H100: with one row products of one input are fastest apart and side by side, with several rows
    # joined and one after the other.
    one_row = spec.rows == 1
    graph = apart(graph, products_of(graph, plugins.kinds)) if one_row else graph
    messages = Messages(trt, ignored=NO_GPU)
    builder = builders.make(trt, messages.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    try:
        emission = define_network(trt, network, graph, load, plugins=plugins)
    except TargetError as error:
        raise TargetError(f"{error.message}; TensorRT says: {messages.text()}", hint=error.hint) from error
    builders.keep(emission.kernels)
    with messages.muted():
        record = read_back(trt, network, library.name)
    config = builder.create_builder_config()
    # Kernels of plug-ins fill the GPU by themselves.
    in_place = any("::" in layer.kind and layer.in_place for layer in record.layers)
    configure(trt, config, options, side_by_side=one_row and not record.plugins, in_place=in_place)
    monitor = progress_monitor(trt, progress) if progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    record = replace(record, profiles=add_profile(builder, config, network, spec.name, graph), positions=positions)
    files = PlanFiles(spec.name, f"{name}.{spec.name}.engine", f"{name}.{spec.name}.network.json")
    engine, cache = folder / files.engine, plan_cache()
    key = plan_key(record, emission.held, options) if options.reuse else ""
    if not options.reuse or not cache.get(key, engine):
        _serialize(trt, builder, network, config, engine, graph, messages)
        if options.reuse:
            cache.put(key, engine)
    replace(record, weights=emission.weights, constants=emission.constants, updates=emission.updates).write(
        folder / files.network
    )
    return files


def _serialize(trt: Any, builder: Any, network: Any, config: Any, path: Path, graph: Graph, messages: Messages) -> None:
    with path.open("wb") as file:

        class Writer(trt.IStreamWriter):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IStreamWriter.__init__(self)

            def write(self, data: bytes) -> int:
                return file.write(data)

        done = builder.build_serialized_network_to_stream(network, config, Writer())
    if not done or not path.stat().st_size:
        raise build_error(path.stem, graph, messages)


def build_error(plan: str, graph: Graph, messages: Messages) -> TargetError:
    """The error for a plan that TensorRT could not build, from what it said: naming the op and the mend."""
    named = ops_named(graph, messages.errors)
    where = f" at {named[0].kind.name} %{named[0].name} from {named[0].origin}" if named else ""
    return TargetError(
        f"TensorRT could not build the plan {plan}{where}: {messages.text()}",
        hint=_SMALLER if messages.say_out_of_memory else _OTHERWISE,
    )
