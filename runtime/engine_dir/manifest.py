"""`manifest.json`: what an engine directory holds, and what it was made from; see docs/engine-format.md.

What is damaged, foreign or of another version is refused when it is read, by the key that tells it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.errors import EngineError, RequestError
from compiler.ir.graph import DimRange, Fact
from compiler.ir.mesh import Mesh
from compiler.ir.tasks import Task
from compiler.json_fields import Fields
from compiler.os_errors import reading_hint
from compiler.suggest import did_you_mean, did_you_mean_path, folders_with
from runtime.engine_dir.used_plugins import UsedPlugin

MANIFEST = "manifest.json"
FORMAT = "llmc engine"
SCHEMA = 2
_AGAIN = "compile the engine again, or copy it again from where it came"


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
        generation: the keys of the checkpoint's `generation_config.json` that set defaults of requests, as stored
            there; empty if there are none, or if an older llmc wrote the manifest.
        tasks: the tasks whose virtual tokens it knows, in the order of their ids.
        config: the content of the checkpoint's `config.json`, from which `llmc export` makes a checkpoint again; empty
            if an older llmc wrote the manifest.
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
    generation: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What tells this engine from others: the checksum of all that the manifest says."""
        return str(self.to_json()["checksum"])

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return int(self.model["vocab_size"])

    def task(self, name: str | None) -> Task | None:
        """The task of that name; None for None.

        Raises:
            RequestError: if there is none; it lists those that there are.
        """
        found = next((task for task in self.tasks if task.name == name), None)
        if name is not None and found is None:
            names = [task.name for task in self.tasks]
            raise RequestError(
                f"the engine has no task {name!r}{did_you_mean(name, names)}",
                hint=f"its tasks are {', '.join(names)}" if names else "compile with --prompts TASK=DIR",
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of the file, with its checksum."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA,
            "llmc": self.llmc,
            "model": dict(self.model),
            "tokens": {"eos": list(self.tokens.eos), "bos": self.tokens.bos, "pad": self.tokens.pad},
            "generation": dict(self.generation),
            "tasks": [task.to_json() for task in self.tasks],
            "config": dict(self.config),
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


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """The manifest of the engine in `folder`.

    Args:
        folder: the engine directory.
        verify: whether to compare the checksum, too.

    Raises:
        EngineError: if there is none, if it is damaged, not llmc's, or of another version of the format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise _no_engine(folder) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EngineError(f"cannot read {path}: {reason}", hint=reading_hint(error, _AGAIN)) from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path} is damaged: it is no JSON ({error})", hint=_AGAIN) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EngineError(
            f"{path} was not written by llmc: its key 'format' is not {FORMAT!r}",
            hint="give a folder that llmc compile wrote; engines of other systems cannot be run",
        )
    fields = Fields(content, label=f"{path}: the key", error=EngineError, hint=_AGAIN)
    _check_schema(path, fields)
    if verify and content.get("checksum") != checksum(content):
        raise EngineError(
            f"{path} is damaged or was edited: its checksum does not match",
            hint=f"{_AGAIN} (--no-verify skips this check)",
        )
    return _manifest(path, fields)


def is_engine(folder: Path) -> bool:
    """Whether `folder` holds a manifest that llmc wrote, of whatever version: it may be replaced by another engine."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def opens_as_engine(path: str | Path) -> bool:
    """Whether a path is to be opened as an engine: if it is one, or a damaged one, so that the damage is told.

    A checkpoint is none, even if it has a file of the manifest's name that something else wrote.
    """
    folder = Path(path).expanduser()
    return is_engine(folder) or ((folder / MANIFEST).is_file() and not (folder / "config.json").is_file())


def _no_engine(folder: Path) -> EngineError:
    if not folder.exists():
        near = did_you_mean_path(folder, is_engine)
        return EngineError(f"there is no engine at {folder}{near}", hint="compile one first: llmc compile MODEL -o DIR")
    if not folder.is_dir():
        hint = f"give its folder: {folder.parent}" if is_engine(folder.parent) else "give the folder of an engine"
        return EngineError(f"{folder} is a file, not an engine", hint=hint)
    if (folder / "config.json").is_file():
        return EngineError(
            f"{folder} is a checkpoint, not an engine", hint=f"compile it first: llmc compile {folder} -o DIR"
        )
    within = folders_with(folder, MANIFEST)
    hint = f"it holds engines: give one, such as {within[0]}" if within else "give a folder that llmc compile wrote"
    return EngineError(f"{folder} is no engine: it has no {MANIFEST}", hint=hint)


def _check_schema(path: Path, fields: Fields) -> None:
    schema = fields.integer("schema")
    if schema == SCHEMA:
        return
    age = "newer" if schema > SCHEMA else "older"
    raise EngineError(
        f"{path} was written by llmc {fields.values.get('llmc', 'of an unknown version')} in format {schema}, "
        f"{age} than the format {SCHEMA} that this llmc reads",
        hint="compile the engine again with this llmc, or run it with the llmc that wrote it",
    )


def _manifest(path: Path, fields: Fields) -> Manifest:
    tokens, source, mesh, limits = (fields.section(key) for key in ("tokens", "source", "mesh", "limits"))
    bindings, files, targets = (fields.section(key) for key in ("bindings", "files", "targets"))
    manifest = Manifest(
        llmc=fields.string("llmc"),
        model=fields.section("model").values,
        tokens=SpecialTokens(tokens.integers("eos"), tokens.optional_integer("bos"), tokens.optional_integer("pad")),
        source=Source(source.string("folder"), source.string("sha256"), source.boolean("dummy_weights")),
        mesh=Mesh(mesh.integer("tp", 1), mesh.integer("pp", 1)),
        dtype=fields.string("dtype"),
        limits=EngineLimits(*(limits.integer(key, 1) for key in ("max_batch", "max_input", "max_seq"))),
        inputs=bindings.section("inputs").strings(),
        outputs=bindings.section("outputs").strings(),
        dims=_dims(fields.section("dims")),
        pipeline=fields.string("pipeline"),
        versions=fields.section("versions").strings(),
        targets={
            name: tuple(rank.strings() for rank in targets.section(name).sections("ranks")) for name in targets.values
        },
        tokenizer=fields.optional_string("tokenizer"),
        files={
            name: FileEntry(files.section(name).integer("bytes"), files.section(name).string("sha256"))
            for name in files.values
        },
        capabilities=fields.string_list("capabilities"),
        fidelity=fields.section("fidelity").values,
        no_tokenizer=_no_tokenizer(fields),
        plugins=tuple(map(UsedPlugin.read, fields.sections("plugins"))) if "plugins" in fields.values else (),
        generation=fields.take("generation", dict, default={}),
        tasks=tuple(map(_task, fields.sections("tasks"))) if "tasks" in fields.values else (),
        config=fields.take("config", dict, default={}),
    )
    fields.section("model").integer("vocab_size", 1)
    _check_files(path, manifest)
    return manifest


def _task(fields: Fields) -> Task:
    return Task(
        fields.string("name"), fields.string("kind"), fields.integer("first_id"), fields.integer("virtual_tokens", 1)
    )


def _no_tokenizer(fields: Fields) -> NoTokenizer | None:
    if fields.values.get("no_tokenizer") is None:
        return None
    why = fields.section("no_tokenizer")
    return NoTokenizer(why.string("reason"), why.string("mend"))


def _dims(fields: Fields) -> dict[str, DimRange]:
    dims = {}
    for name in fields.values:
        sizes = fields.integers(name)
        if len(sizes) != 3:
            raise fields.invalid(name, "it must be [min, opt, max]")
        dims[name] = DimRange(*sizes)
    return dims


def _check_files(path: Path, manifest: Manifest) -> None:
    """Every file that is used is listed, none lies outside the folder, and each target has all ranks."""
    used = [file for ranks in manifest.targets.values() for rank in ranks for file in rank.values()]
    used += [manifest.tokenizer] if manifest.tokenizer else []
    for name in (*manifest.files, *used):
        if Path(name).name != name or name in (".", "..", MANIFEST):
            raise EngineError(f"{path} names the file {name!r}, which is none of its folder", hint=_AGAIN)
    for name in used:
        if name not in manifest.files:
            raise EngineError(f"{path} names the file {name!r} but does not list it under 'files'", hint=_AGAIN)
    ranks = manifest.mesh.size
    for target, files in manifest.targets.items():
        if len(files) != ranks:
            raise EngineError(
                f"{path}: target {target!r} has files of {len(files)} ranks, the mesh has {ranks}",
                hint=_AGAIN,
            )
