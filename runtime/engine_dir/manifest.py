"""`manifest.json`: what an engine directory holds, and what it was made from; see docs/engine-format.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.ir.graph import DimRange, Fact
from compiler.ir.mesh import Mesh
from runtime.engine_dir.used_plugins import UsedPlugin

MANIFEST = "manifest.json"
FORMAT = "llmc engine"
SCHEMA = 2


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids with a meaning: any of `eos` ends a text."""

    eos: tuple[int, ...] = ()
    bos: int | None = None
    pad: int | None = None


@dataclass(frozen=True)
class Source:
    """The checkpoint that an engine was made from: its folder's name, and a digest of its files."""

    folder: str
    sha256: str
    dummy_weights: bool = False


@dataclass(frozen=True)
class NoTokenizer:
    """Why an engine has no tokenizer, as a clause, and what to do about it, as another."""

    reason: str
    mend: str


@dataclass(frozen=True)
class EngineLimits:
    """The largest batch, prompt, and sequence (prompt and new tokens together) that the engine was built for."""

    max_batch: int
    max_input: int
    max_seq: int


@dataclass(frozen=True)
class FileEntry:
    """A file of the engine: its size in bytes, and its digest."""

    bytes: int
    sha256: str


RankFiles = Mapping[str, str]
"""The files of one rank by role: `graph`, `weights`, and for TensorRT `plans`."""


@dataclass(frozen=True)
class Manifest:
    """What an engine says about itself.

    Attributes:
        llmc: the version of llmc that wrote it.
        model: facts about the model (family, vocab_size, context_length, layers ...).
        tokens: token ids with a meaning.
        source: the checkpoint.
        mesh: the ranks.
        dtype: the element type of activations and caches, as the command line spells it.
        limits: what the engine was built for.
        inputs: the step's inputs and their types.
        outputs: the step's outputs and their types.
        dims: the range of each symbol in those types.
        pipeline: the passes, in canonical spelling.
        versions: of Python and the packages that made the engine.
        targets: the files of each rank, for each target.
        tokenizer: the tokenizer's file, if the checkpoint had one.
        no_tokenizer: why there is none; None if there is one, or if an older llmc wrote the manifest.
        files: every file but the manifest.
        capabilities: the compute capabilities that TensorRT plans were built for, such as `8.9`; empty without plans.
        fidelity: what quantization did to the outputs of each op, as `mean` and `ops`; empty if nothing was quantized.
        plugins: the plug-ins whose ops, passes or family it uses.
    """

    llmc: str
    model: Mapping[str, Fact]
    tokens: SpecialTokens
    source: Source
    mesh: Mesh
    dtype: str
    limits: EngineLimits
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    dims: Mapping[str, DimRange]
    pipeline: str
    versions: Mapping[str, str]
    targets: Mapping[str, tuple[RankFiles, ...]]
    tokenizer: str | None
    files: Mapping[str, FileEntry]
    capabilities: tuple[str, ...] = ()
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    no_tokenizer: NoTokenizer | None = None
    plugins: tuple[UsedPlugin, ...] = ()

    @property
    def digest(self) -> str:
        """What tells this engine from others: the checksum of all that the manifest says."""
        return str(self.to_json()["checksum"])

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return int(self.model["vocab_size"])

    def to_json(self) -> dict[str, Any]:
        """The content of the file, with its checksum."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "llmc": self.llmc,
            "model": dict(self.model),
            "tokens": {"eos": list(self.tokens.eos), "bos": self.tokens.bos, "pad": self.tokens.pad},
            "source": {
                "folder": self.source.folder,
                "sha256": self.source.sha256,
                "dummy_weights": self.source.dummy_weights,
            },
            "mesh": {"tp": self.mesh.tp, "pp": self.mesh.pp},
            "dtype": self.dtype,
            "limits": vars(self.limits),
            "bindings": {"inputs": dict(self.inputs), "outputs": dict(self.outputs)},
            "dims": {name: list(sizes) for name, sizes in self.dims.items()},
            "pipeline": self.pipeline,
            "versions": dict(self.versions),
            "targets": {name: {"ranks": [dict(rank) for rank in ranks]} for name, ranks in self.targets.items()},
            "capabilities": list(self.capabilities),
            "fidelity": dict(self.fidelity),
            "plugins": [used.to_json() for used in self.plugins],
            "tokenizer": self.tokenizer,
            "no_tokenizer": vars(self.no_tokenizer) if self.no_tokenizer else None,
            "files": {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in sorted(self.files.items())},
        }
        return {**content, "checksum": checksum(content)}

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`; OSError if that fails."""
        (folder / MANIFEST).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def no_tokenizer(manifest: Manifest) -> tuple[str, str]:
    """Why an engine has no tokenizer, as the end of a sentence, empty if nobody knows, and what to do about it."""
    why = manifest.no_tokenizer
    if why is None:
        return "", "compile again with the tokenizer beside the weights"
    return f": {why.reason}", why.mend


def checksum(content: Mapping[str, Any]) -> str:
    """The sha256 of a manifest without its checksum: of its JSON with sorted keys and no spaces."""
    text = json.dumps({k: v for k, v in content.items() if k != "checksum"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
