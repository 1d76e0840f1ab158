"""The facts that a user asks first, of a checkpoint, an engine, or a graph in a file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import llmc.own_targets  # noqa: F401
from compiler.errors import EngineError, GraphError, ParseError
from compiler.frontends import is_checkpoint
from compiler.ir.files import read_graph
from compiler.ir.frozen import EMPTY
from compiler.ir.graph import Graph
from compiler.ir.paged_layout import PagedLayout, layout_of
from compiler.ir.parser import parse_graph
from compiler.ir.step import StepDim, dim_sizes
from compiler.ir.tasks import TASKS, tasks_of
from compiler.ir.tensor_ref import TensorRef
from compiler.ir.types import TensorType
from compiler.targets import TARGETS, Target, describe_targets
from compiler.text_files import decode_text
from llmc.models import lift
from llmc.naming import dumped_graphs, dumps_error, whole_of_file
from llmc.step_cost import cache_bytes_per_token
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import MANIFEST, Manifest, opens_as_engine
from runtime.load.ignored_options import Case, ignored_notes

_GRAPHS = "graphs are .ir files, such as llmc lift and --dump-ir write"


@dataclass(frozen=True)
class Subject:
    """What a path names.

    Attributes:
        kind: `checkpoint`, `engine` or `graph`.
        path: the path.
        graph: its graph; of a checkpoint as lifted, of an engine that of its first rank.
        manifest: of an engine.
        notes: what lifting found odd.
    """

    kind: str
    path: Path
    graph: Graph
    manifest: Manifest | None = None


def open_subject(
    path: str | Path,
    *,
    dummy_weights: bool = False,
    source: Mapping[str, Any] = EMPTY,
    limits: Mapping[str, int | None] = EMPTY,
    note: Callable[[str], None] = lambda text: None,
) -> Subject:
    """What `path` names: an engine, an `.ir` file, or a checkpoint (a folder, or an id of the hub).

    Args:
        path: the path; `-` for a graph on standard input.
        dummy_weights: whether the weights of a checkpoint may be missing.
        source: `weights`, `weights_format` and `scales` for lifting a checkpoint; None for none.
        limits: `max_batch`, `max_input` and `max_seq` for lifting a checkpoint; None for those of `llmc.lift`.
        note: called with a sentence about each thing that is odd but harmless.

    Raises:
        LlmcError: if it is none of these, or damaged.
    """
    if str(path) == "-":
        text = decode_text(sys.stdin.buffer.read(), "standard input", ParseError).text
        return Subject("graph", Path(path), parse_graph(text))
    given = Path(path).expanduser()
    is_model_file = given.is_file() and is_checkpoint(given)  # of a layout of one file
    lifts = is_model_file or not (given.is_file() or given.suffix == ".ir" or opens_as_engine(given))
    wishes = {f"--{name.replace('_', '-')}": wish is not None for name, wish in (*limits.items(), *source.items())}
    for text in ignored_notes(
        Case(not lifts, f"{path} is not lifted, but has a graph", {**wishes, "--dummy-weights": dummy_weights})
    ):
        note(text)
    if (given.is_file() and not is_model_file) or (given.suffix == ".ir" and not given.exists()):
        if given.name == MANIFEST:
            return open_subject(given.parent, note=note)
        graph = _graph_in(given)
        return Subject("graph", given, replace(graph, root=str(Path(graph.root).resolve())))
    if opens_as_engine(given):
        folder = open_engine(given, verify=False)
        if folder.manifest.mesh.size > 1:
            note(f"{given} has {folder.manifest.mesh.size} ranks; the graph is that of rank 0")
        return Subject("engine", given, read_graph(given / graph_file(folder.manifest, given)), folder.manifest)
    if graphs := dumped_graphs(given):
        raise dumps_error(given, graphs)
    chosen: Any = {name: limit for name, limit in limits.items() if limit is not None}
    return Subject("checkpoint", given, lift(str(path), dummy_weights=dummy_weights, note=note, **source, **chosen))


def _graph_in(file: Path) -> Graph:
    """The graph in a file; LlmcError if it holds none, naming what the file is a part of."""
    whole = whole_of_file(file)
    if file.suffix != ".ir" and whole is not None:
        what, folder = whole
        raise GraphError(f"{file} is a file of {what}, not a graph", hint=f"give its folder: {folder}")
    try:
        return read_graph(file)
    except GraphError as error:
        raise type(error)(error.message, hint=error.hint or _GRAPHS, excerpt=error.excerpt) from None


def graph_file(manifest: Manifest, path: Path) -> str:
    """The file of the graph of an engine's first rank, which all targets share; EngineError if it holds none."""
    return graph_files(manifest, path)[0]


def graph_files(manifest: Manifest, path: Path) -> list[str]:
    """The files of the graphs of an engine's ranks, which all targets share; EngineError if it holds none."""
    for ranks in manifest.targets.values():
        if all("graph" in files for files in ranks):
            return [files["graph"] for files in ranks]
    raise EngineError(f"{path} holds no graph", hint="compile it again with this llmc")


def inspect_path(
    path: str | Path,
    *,
    dummy_weights: bool = False,
    source: Mapping[str, Any] = EMPTY,
    layers: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The facts about what `path` names, as a JSON object; the keys are in docs/cli.md.

    Args:
        path: a checkpoint, an engine, an `.ir` file, or a folder of such files.
        dummy_weights: whether the weights of a checkpoint may be missing.
        source: `weights`, `weights_format` and `scales` for lifting a checkpoint; None for none.
        layers: whether to list the layers of an engine's execution plans, too.
        note: called with a sentence about each thing that is odd but harmless.

    Raises:
        LlmcError: if it is neither a checkpoint, an engine nor a graph, or damaged, or has no plans whose layers
            could be listed.
    """
    if graphs := dumped_graphs(Path(path).expanduser()):
        if layers:
            raise _no_layers(path)
        return {"kind": "dumps", "path": str(path), "graphs": [_dump(file) for file in graphs]}
    subject = open_subject(path, dummy_weights=dummy_weights, source=source, note=note)
    graph, manifest = subject.graph, subject.manifest
    facts: dict[str, Any] = {"kind": subject.kind, "path": str(subject.path), "facts": dict(graph.facts)}
    facts["facts"].pop(TASKS, None)
    facts["tasks"] = [task.to_json() for task in tasks_of(graph.facts)]
    facts["weights"] = _weights(graph)
    facts["ops"] = dict(Counter(op.kind.name for op in graph.ops).most_common())
    facts["dims"] = {name: list(sizes) for name, sizes in graph.dims.items()}
    states = graph.states()
    facts["inputs"] = {value.name: str(value.type) for value in graph.inputs if value.name not in states}
    facts["outputs"] = {role: str(value.type) for role, value in graph.outputs.items() if role not in states}
    facts["cache"] = _cache(graph)
    facts["passes"] = sorted({name for op in graph.ops for name in op.origin.passes})
    if manifest:
        content = manifest.to_json()
        facts |= {key: content[key] for key in _MANIFEST_KEYS}
        facts |= _target_facts(subject.path, manifest, layers=layers)
    if layers and not any(name in facts for name in target_sections()):
        raise _no_layers(path)
    return facts


def _target_facts(path: Path, manifest: Manifest, *, layers: bool) -> dict[str, Any]:
    """What the targets of an engine say of its first rank, each under the key of its section."""
    found: dict[str, Any] = {}
    for name, ranks in manifest.targets.items():
        info = TARGETS.find(name)
        if info is not None and info.section not in found:
            capabilities = manifest.capabilities
            said = info.target.facts(path, ranks[0], compute_capabilities=capabilities, layers=layers)
            found |= {info.section: said} if said else {}
    return found


def target_sections() -> dict[str, type[Target]]:
    """The keys under which targets say their facts, and a target that can read them."""
    return {info.section: info.target for info in reversed(describe_targets())}


def _no_layers(path: str | Path) -> EngineError:
    return EngineError(
        f"{path} has no execution plans, so it has no layers to list",
        hint="give an engine that was compiled with --target tensorrt-rtx; llmc inspect FILE.ir shows a graph",
    )


def _dump(file: Path) -> dict[str, Any]:
    """The facts about one graph of a folder."""
    graph = read_graph(file)
    return {
        "file": file.name,
        "weights": _weights(graph),
        "ops": dict(Counter(op.kind.name for op in graph.ops).most_common()),
    }


_MANIFEST_KEYS = (
    *("llmc", "schema", "tokens", "source", "mesh", "dtype", "limits"),
    *("pipeline", "plugins", "versions", "targets", "tokenizer", "no_tokenizer", "files"),
)


def _weights(graph: Graph) -> dict[str, Any]:
    """Bytes of the tensors that the graph takes from files or makes up, by element type; each stored tensor once."""
    tensors: dict[tuple[str, int | str], TensorType] = {}
    for op in graph.ops:
        if op.kind.name == "const":
            ref = op.attrs["data"]
            assert isinstance(ref, TensorRef)
            tensors[ref.file, ref.offset] = ref.type
        elif op.kind.name == "random":
            tensors["", op.name] = op.result.type
    by_dtype: Counter[str] = Counter()
    for type_ in tensors.values():
        by_dtype[type_.dtype.value] += type_.nbytes
    return {"tensors": len(tensors), "bytes": by_dtype.total(), "bytes_by_dtype": dict(by_dtype.most_common())}


def _cache(graph: Graph) -> dict[str, int]:
    """Bytes of the caches: for one token of one sequence, and for the largest batch of the longest sequences."""
    states, layout = graph.states(), layout_of(graph)
    sizes = {name: dim.max for name, dim in graph.dims.items()}
    if isinstance(layout, PagedLayout):
        blocks = sizes[StepDim.BATCH] * layout.blocks_for(sizes[StepDim.CAPACITY])
        sizes = {**sizes, **dim_sizes(blocks=blocks)}
    held = sum(prod(value.type.sizes(sizes)) * value.type.dtype.bits // 8 for value, _ in states.values())
    return {"states": len(states), "bytes_per_token": cache_bytes_per_token(graph), "bytes_at_limits": held}
