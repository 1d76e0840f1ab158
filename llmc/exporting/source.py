"""What is exported: a checkpoint, or an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import EngineError, ExportError
from compiler.frontends.json_file import read_object
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from llmc.compiling.job import Job
from llmc.exporting.options import ExportOptions
from llmc.progress import counter
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import Manifest

_CONFIG = "config.json"


@dataclass(frozen=True)
class EngineSource:
    """An engine of one rank, to be exported.

    Attributes:
        folder: the engine directory.
        manifest: what it says about itself.
        graph: its graph.
        config: the content of its checkpoint's `config.json`.
    """

    folder: Path
    manifest: Manifest
    graph: Graph
    config: Mapping[str, Any]


def open_engine_source(job: Job, engine: Path, options: ExportOptions) -> EngineSource:
    """The engine in a folder.

    Raises:
        EngineError: if it is damaged.
        ExportError: if it has several ranks, options say what to make of it, or its config is not known.
    """
    folder = engine.expanduser()
    manifest = open_engine(folder, verify=False).manifest
    if given := [name for name, is_given in options.given.items() if is_given]:
        raise ExportError(
            f"{given[0]} is for a checkpoint, and {engine} is an engine, whose weights are what its passes made them",
            hint=f"export the checkpoint that it was compiled from, {manifest.source.folder}, with {given[0]}",
        )
    if manifest.mesh.size > 1:
        raise ExportError(
            f"{engine} is an engine of {manifest.mesh.size} ranks ({manifest.mesh}), "
            "each of which has a part of the weights",
            hint=f"export the checkpoint that it was compiled from, {manifest.source.folder}, with the same --passes "
            "but for tp, pp and embed",
        )
    if manifest.source.dummy_weights:
        job.notes.append(f"{engine} was compiled with dummy weights, and so is what is exported")
    config = _config(engine, manifest, options)
    if options.verify:
        with job.phase("engine digest") as report:
            total = sum(entry.bytes for entry in manifest.files.values())
            open_engine(folder, advance=counter(report, total))
    ranks = next(iter(manifest.targets.values()), ())
    file = ranks[0].get("graph") if ranks else None
    if file is None:
        raise EngineError(f"{engine} holds no graph", hint="compile it again")
    return EngineSource(folder, manifest, read_graph(folder / file), config)


def _config(engine: Path, manifest: Manifest, options: ExportOptions) -> Mapping[str, Any]:
    """The checkpoint's config, from the engine or a file."""
    if manifest.config:
        return manifest.config
    if options.config is None:
        raise ExportError(
            f"{engine} does not hold the {_CONFIG} of its checkpoint: "
            f"llmc {manifest.llmc}, which compiled it, stored none",
            hint=f"give it: --config FILE, which is that of {manifest.source.folder}",
        )
    path = Path(options.config).expanduser()
    path = path / _CONFIG if path.is_dir() else path
    if not path.is_file():
        raise ExportError(f"there is no file {path}", hint=f"--config takes a {_CONFIG}, or the folder that holds it")
    return read_object(path)
