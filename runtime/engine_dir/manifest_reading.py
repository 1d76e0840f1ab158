"""Reading `manifest.json`: what is damaged, foreign or of another version is refused, by the key that tells it."""

from __future__ import annotations

import json
from pathlib import Path

from compiler.errors import EngineError
from compiler.ir.graph import DimRange
from compiler.ir.mesh import Mesh
from compiler.os_errors import reading_hint
from compiler.suggest import did_you_mean_path, folders_with
from runtime.engine_dir.json_fields import Fields
from runtime.engine_dir.manifest import (
    FORMAT,
    MANIFEST,
    SCHEMA,
    EngineLimits,
    FileEntry,
    Manifest,
    NoTokenizer,
    Source,
    SpecialTokens,
    checksum,
)
from runtime.engine_dir.used_plugins import UsedPlugin

_AGAIN = "compile the engine again, or copy it again from where it came"


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
    fields = Fields(str(path), content, hint=_AGAIN)
    _check_schema(fields)
    if verify and content.get("checksum") != checksum(content):
        raise EngineError(
            f"{path} is damaged or was edited: its checksum does not match",
            hint=f"{_AGAIN} (--no-verify skips this check)",
        )
    return _manifest(fields)


def is_engine(folder: Path) -> bool:
    """Whether `folder` holds a manifest that llmc wrote, of whatever version."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


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


def _check_schema(fields: Fields) -> None:
    schema = fields.integer("schema")
    if schema == SCHEMA:
        return
    age = "newer" if schema > SCHEMA else "older"
    raise EngineError(
        f"{fields.file} was written by llmc {fields.values.get('llmc', 'of an unknown version')} in format {schema}, "
        f"{age} than the format {SCHEMA} that this llmc reads",
        hint="compile the engine again with this llmc, or run it with the llmc that wrote it",
    )


def _manifest(fields: Fields) -> Manifest:
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
    )
    fields.section("model").integer("vocab_size", 1)
    _check_files(manifest, fields)
    return manifest


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
            raise EngineError(
                f"{fields.file}: the key {fields.path + name!r} must be [min, opt, max]", hint=fields.hint
            )
        dims[name] = DimRange(*sizes)
    return dims


def _check_files(manifest: Manifest, fields: Fields) -> None:
    """Every file that is used is listed, none lies outside the folder, and each target has all ranks."""
    used = [file for ranks in manifest.targets.values() for rank in ranks for file in rank.values()]
    used += [manifest.tokenizer] if manifest.tokenizer else []
    for name in (*manifest.files, *used):
        if Path(name).name != name or name in (".", "..", MANIFEST):
            raise EngineError(f"{fields.file} names the file {name!r}, which is none of its folder", hint=fields.hint)
    for name in used:
        if name not in manifest.files:
            raise EngineError(
                f"{fields.file} names the file {name!r} but does not list it under 'files'", hint=fields.hint
            )
    ranks = manifest.mesh.size
    for target, files in manifest.targets.items():
        if len(files) != ranks:
            raise EngineError(
                f"{fields.file}: target {target!r} has files of {len(files)} ranks, the mesh has {ranks}",
                hint=fields.hint,
            )
