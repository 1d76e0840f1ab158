"""Manifests are read back exactly, and refused when they are damaged, foreign or of another version."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.errors import EngineError
from compiler.ir.tasks import Task
from compiler.plugins import Plugin
from runtime.engine_dir.manifest import SCHEMA, NoTokenizer, checksum, is_engine, opens_as_engine, read_manifest
from runtime.engine_dir.used_plugins import UsedPlugin
from tests.runtime.engines import MANIFEST, write_engine


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    write_engine(tmp_path / "engine")
    return tmp_path / "engine"


def edit(engine: Path, change, *, sign: bool = True) -> None:
    """Change the manifest's content; with `sign`, the checksum with it."""
    path = engine / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    if sign:
        content["checksum"] = checksum(content)
    path.write_text(json.dumps(content))


def refusal(engine: Path, **options) -> EngineError:
    with pytest.raises(EngineError) as raised:
        read_manifest(engine, **options)
    assert raised.value.hint
    return raised.value


def test_what_is_written_is_read_back(engine: Path) -> None:
    read = read_manifest(engine)
    assert replace(read, files={}) == MANIFEST
    assert set(read.files) == {"rank0.ir", "rank0.safetensors"}
    assert read.files["rank0.safetensors"].bytes == 7


def test_plugins_are_read_back(engine: Path) -> None:
    used = (
        UsedPlugin(Plugin("my-package", version="1.2"), ops=("a", "b"), families=("f",)),
        UsedPlugin(Plugin("passes.py", sha256="0" * 64), rules=("add",), passes=("p",)),
    )
    edit(engine, lambda m: m.update(plugins=[each.to_json() for each in used]))
    assert read_manifest(engine).plugins == used


def test_engines_that_name_no_plugins_have_none(engine: Path) -> None:
    edit(engine, lambda m: m.pop("plugins"))
    assert read_manifest(engine).plugins == ()


def test_tasks_are_read_back_and_found_by_name(engine: Path) -> None:
    tasks = (Task("a", "P_TUNING", 97, 3), Task("b", "PREFIX_TUNING", 100, 5))
    edit(engine, lambda m: m.update(tasks=[task.to_json() for task in tasks]))
    read = read_manifest(engine)
    assert read.tasks == tasks
    assert (read.task("b"), read.task(None)) == (tasks[1], None)


def test_engines_that_name_no_tasks_have_none(engine: Path) -> None:
    edit(engine, lambda m: m.pop("tasks"))
    assert read_manifest(engine).tasks == ()


@pytest.mark.parametrize(
    ("task", "key"), [({"name": "a"}, "kind"), ({"name": "a", "kind": "b", "first_id": 9}, "virtual_tokens")]
)
def test_a_task_has_all_that_it_needs(engine: Path, task: dict[str, object], key: str) -> None:
    edit(engine, lambda m: m.update(tasks=[task]))
    assert f"'tasks.0.{key}' is missing" in refusal(engine).message


def test_capabilities_are_read_back(engine: Path) -> None:
    edit(engine, lambda m: m.update(capabilities=["8.9", "12.0"]))
    assert read_manifest(engine).capabilities == ("8.9", "12.0")


def test_defaults_of_requests_are_read_back_and_may_be_missing(engine: Path) -> None:
    stored = {"do_sample": True, "top_p": 0.9, "sequence_bias": [[[1, 2], -2.0]], "early_stopping": "never"}
    edit(engine, lambda m: m.update(generation=stored))
    assert read_manifest(engine).generation == stored
    edit(engine, lambda m: m.pop("generation"))
    assert read_manifest(engine).generation == {}


def test_why_there_is_no_tokenizer_is_read_back_and_may_be_missing(engine: Path) -> None:
    edit(engine, lambda m: m.update(no_tokenizer={"reason": "there was none", "mend": "give one"}))
    assert read_manifest(engine).no_tokenizer == NoTokenizer("there was none", "give one")
    edit(engine, lambda m: m.pop("no_tokenizer"))
    assert read_manifest(engine).no_tokenizer is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("limits"), "the key 'limits' is missing"),
        (lambda m: m["limits"].pop("max_seq"), "the key 'limits.max_seq' is missing"),
        (lambda m: m["limits"].update(max_batch="many"), "the key 'limits.max_batch' is 'many'; it must be an integer"),
        (lambda m: m["limits"].update(max_batch=0), "the key 'limits.max_batch' is 0; it must be at least 1"),
        (lambda m: m["limits"].update(max_batch=True), "the key 'limits.max_batch' is true; it must be an integer"),
        (lambda m: m.update(mesh=[]), "the key 'mesh' is []; it must be an object"),
        (lambda m: m["tokens"].update(eos=["</s>"]), "the key 'tokens.eos' is ['</s>']; it must be a list of integers"),
        (lambda m: m.update(capabilities=[8.9]), "the key 'capabilities' is [8.9]; it must be a list of strings"),
        (lambda m: m.update(no_tokenizer={"reason": 1}), "the key 'no_tokenizer.reason' is 1; it must be a string"),
        (lambda m: m.update(generation=[1]), "the key 'generation' is [1]; it must be an object"),
        (lambda m: m.update(plugins={}), "the key 'plugins' is {}; it must be a list"),
        (lambda m: m.update(plugins=[{"package": "p"}]), "the key 'plugins.0.version' is missing"),
        (lambda m: m["model"].pop("vocab_size"), "the key 'model.vocab_size' is missing"),
        (lambda m: m["dims"].update(B=[1, 2]), "the key 'dims.B' is [1, 2]; it must be [min, opt, max]"),
        (lambda m: m.update(tokenizer="../tokenizer.json"), "names the file '../tokenizer.json', which is none of its"),
        (lambda m: m.update(tokenizer="tokenizer.json"), "names the file 'tokenizer.json' but does not list it"),
        (lambda m: m["targets"]["torch"].update(ranks=[]), "target 'torch' has files of 0 ranks, the mesh has 1"),
        (lambda m: m["files"].update({"a/b": {"bytes": 1, "sha256": ""}}), "names the file 'a/b', which is none of"),
    ],
)
def test_a_wrong_key_is_named(engine: Path, change, message: str) -> None:
    edit(engine, change)
    assert message in refusal(engine).message


def test_an_edited_manifest_is_refused_unless_verification_is_off(engine: Path) -> None:
    edit(engine, lambda m: m["limits"].update(max_seq=999), sign=False)
    assert "checksum" in refusal(engine).message
    assert read_manifest(engine, verify=False).limits.max_seq == 999


@pytest.mark.parametrize(("schema", "age"), [(SCHEMA + 1, "newer"), (SCHEMA - 1, "older")])
def test_another_version_says_which_llmc_wrote_it_and_what_to_do(engine: Path, schema: int, age: str) -> None:
    edit(engine, lambda m: m.update(schema=schema, llmc="7.8.9", limits="of another form"))
    error = refusal(engine)
    assert "was written by llmc 7.8.9" in error.message
    assert age in error.message
    assert "compile the engine again" in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: it is no JSON"),
        ("[1]", "was not written by llmc"),
        ('{"builder_config": {"precision": "float16"}}', "was not written by llmc"),
        ("[" * 100_000, "is damaged: it is no JSON"),
        ("", "is damaged: it is no JSON"),
    ],
)
def test_foreign_and_damaged_manifests(engine: Path, text: str, message: str) -> None:
    (engine / "manifest.json").write_text(text)
    assert message in refusal(engine).message
    assert not is_engine(engine)
    assert opens_as_engine(engine)  # so that the damage is told


def test_a_manifest_that_something_else_wrote_makes_no_engine_of_a_checkpoint(engine: Path) -> None:
    (engine / "config.json").write_text("{}")
    assert opens_as_engine(engine)
    (engine / "manifest.json").write_text('{"name": "A web page"}')
    assert not opens_as_engine(engine)
    assert not opens_as_engine(engine / "config.json")


def test_a_manifest_that_is_no_text(engine: Path) -> None:
    (engine / "manifest.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in refusal(engine).message


def test_what_is_no_engine_is_called_what_it_is(tmp_path: Path) -> None:
    assert "there is no engine at" in refusal(tmp_path / "missing").message
    assert "is no engine: it has no manifest.json" in refusal(tmp_path).message
    (tmp_path / "config.json").write_text("{}")
    assert "is a checkpoint, not an engine" in refusal(tmp_path).message
    assert "is a file, not an engine" in refusal(tmp_path / "config.json").message
