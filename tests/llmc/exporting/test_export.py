"""`llmc.export`: folders that other programs read, from checkpoints and engines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmc
from compiler.errors import ExportError
from compiler.frontends import lift, open_checkpoint
from llmc.exporting.options import shard_size
from runtime.engine_dir.manifest import MANIFEST, checksum
from tests.exporters.exporting import tensors_of
from tests.frontends.steps import assert_same_logits
from tests.paths import MODELS

FAMILIES = ("gptneox", "gptj", "opt", "mpt")
VOCAB = 1024


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a calibration on a few tokens, which suffice to report errors."""
    file = tmp_path_factory.mktemp("text") / "calib.jsonl"
    file.write_text(json.dumps({"token_ids": list(range(32))}))
    return {"calib": file, "calib_length": 16}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, calib: dict[str, Any]) -> Path:
    """An engine of opt-tiny with weights in 4 bits. Do not change it."""
    place = tmp_path_factory.mktemp("engine") / "opt.engine"
    llmc.compile(MODELS / "opt-tiny", place, passes="quant=int4:group=32,cache=paged", target="torch", **calib)
    return place


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_it(tmp_path: Path, family: str) -> None:
    """In float32, nothing is rounded: transformers computes the same from it, and llmc what transformers does."""
    source = MODELS / f"{family}-tiny"
    llmc.export(source, tmp_path / "out", dtype="float32", max_shard_size="2MB")
    before = AutoModelForCausalLM.from_pretrained(source, dtype="float32").eval()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert after.dtype is torch.float32
    row = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(after(row).logits, before(row).logits)
    double = after.double()
    graph = lift(open_checkpoint(tmp_path / "out"))
    assert_same_logits(graph, lambda ids: double(torch.tensor([ids])).logits[0].detach(), vocab=VOCAB, seed=0)
    text = "The function returns a list"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text) == AutoTokenizer.from_pretrained(source)(text)


def test_shards_and_their_index(tmp_path: Path) -> None:
    made = llmc.export(MODELS / "opt-tiny", tmp_path / "out", max_shard_size="300kB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 3
    assert index["metadata"]["total_size"] == made.bytes
    for file in files:
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            sizes = {name: opened.get_tensor(name).nbytes for name in opened.keys()}  # noqa: SIM118
            assert opened.metadata() == {"format": "pt"}
        assert sum(sizes.values()) <= 300_000 or len(sizes) == 1
        assert all(index["weight_map"][name] == file for name in sizes)


@pytest.mark.parametrize("name", ["gptq", "awq", "compressed-tensors"])
def test_an_engine_gives_the_checkpoint_that_its_passes_give(
    engine: Path, calib: dict[str, Any], tmp_path: Path, name: str
) -> None:
    from_engine = llmc.export(engine, tmp_path / "engine", name)
    llmc.export(MODELS / "opt-tiny", tmp_path / "model", name, passes="quant=int4:group=32", **calib)
    ours, theirs = tensors_of(tmp_path / "engine"), tensors_of(tmp_path / "model")
    assert ours.keys() == theirs.keys()
    positions = "model.decoder.embed_positions.weight"
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == [positions]
    assert torch.equal(ours[positions][2:], theirs[positions][2:])
    assert not ours[positions][:2].any()
    (note,) = from_engine.notes
    assert note == (
        f"the tensor {positions!r} has 2 rows that no token uses: "
        "they are not in the graph, and zeros in the checkpoint"
    )
    configs = [json.loads((tmp_path / which / "config.json").read_text()) for which in ("engine", "model")]
    assert configs[0] == configs[1]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "engine" / file).is_file()
    assert json.loads((tmp_path / "engine" / "generation_config.json").read_text())["eos_token_id"] == 0


def _older(engine: Path, folder: Path, **changes: object) -> Path:
    """A copy of an engine whose manifest says something else."""
    folder.mkdir()
    for path in engine.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((engine / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps({**content, "checksum": checksum(content)}))
    return folder


def test_an_engine_without_a_config_needs_it(engine: Path, tmp_path: Path) -> None:
    older = _older(engine, tmp_path / "older", config={}, llmc="0.0.9")
    with pytest.raises(ExportError) as caught:
        llmc.export(older, tmp_path / "out", "gptq")
    assert caught.value.message == (
        f"{older} does not hold the config.json of its checkpoint: llmc 0.0.9, which compiled it, stored none"
    )
    assert caught.value.hint == "give it: --config FILE, which is that of opt-tiny"
    assert not (tmp_path / "out").exists()
    llmc.export(older, tmp_path / "out", "gptq", config=MODELS / "opt-tiny")
    llmc.export(engine, tmp_path / "other", "gptq")
    ours, theirs = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "other")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_an_engine_of_several_ranks_is_refused(engine: Path, tmp_path: Path) -> None:
    ranks = _older(engine, tmp_path / "ranks", mesh={"tp": 2, "pp": 1})
    content = json.loads((ranks / MANIFEST).read_text())
    content["targets"] = {name: {"ranks": each["ranks"] * 2} for name, each in content["targets"].items()}
    (ranks / MANIFEST).write_text(json.dumps({**content, "checksum": checksum(content)}))
    with pytest.raises(ExportError) as caught:
        llmc.export(ranks, tmp_path / "out", "gptq")
    assert caught.value.message == (
        f"{ranks} is an engine of 2 ranks (tp=2, pp=1), each of which has a part of the weights"
    )
    assert caught.value.hint == (
        "export the checkpoint that it was compiled from, opt-tiny, with the same --passes but for tp, pp and embed"
    )


def test_options_for_checkpoints_are_refused_with_an_engine(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        llmc.export(engine, tmp_path / "out", dtype="float32")
    assert caught.value.message == (
        f"--dtype is for a checkpoint, and {engine} is an engine, whose weights are what its passes made them"
    )


def test_what_a_format_cannot_say_is_found_before_calibration(tmp_path: Path) -> None:
    """The calibration text is never opened: reading it would be another error."""
    seen: list[str] = []
    with pytest.raises(ExportError, match="has no place for inputs that are rounded to int8 by a scale for each token"):
        llmc.export(
            MODELS / "opt-tiny",
            tmp_path / "out",
            "gptq",
            passes="quant=smoothquant",
            progress=lambda phase, done, total: seen.append(str(phase)),
        )
    assert "calibrate" not in seen
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    place = tmp_path / "out"
    llmc.export(MODELS / "opt-tiny", place, max_shard_size="300kB")
    llmc.export(MODELS / "opt-tiny", place)
    assert not list(place.glob("*.index.json"))
    (place / "notes.txt").write_text("mine")
    with pytest.raises(ExportError) as caught:
        llmc.export(MODELS / "opt-tiny", place)
    assert caught.value.message == (
        f"{place} holds an exported checkpoint and also notes.txt, which replacing it would delete"
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ExportError) as caught:
        llmc.export(MODELS / "opt-tiny", other)
    assert caught.value.message == f"{other} exists and was not written by llmc export; it is not overwritten"
    with pytest.raises(ExportError, match="is the model that is exported"):
        llmc.export(MODELS / "opt-tiny", MODELS / "opt-tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmc.exporting.driver.write_json", full)
    with pytest.raises(ExportError, match=r"the disk of .* is full") as caught:
        llmc.export(MODELS / "opt-tiny", tmp_path / "out")
    assert caught.value.hint == "free some space, or choose another place: -o DIR; nothing is left of out"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("200", 200), (300, 300), ("7kb", 7000)]
)
def test_sizes(text: int | str, size: int) -> None:
    assert shard_size(text) == size


@pytest.mark.parametrize("text", ["", "5 parsecs", "0", "-1GB", "GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ExportError) as caught:
        shard_size(text)
    assert caught.value.message == f"{text!r} is no size of a file"
    assert caught.value.hint == "write one such as --max-shard-size 5GB or 500MiB"


def test_an_unknown_option() -> None:
    with pytest.raises(ExportError) as caught:
        llmc.export("model", pases="cleanup")  # type: ignore[call-arg]
    assert caught.value.message == "export has no option 'pases'; did you mean 'passes'?"
