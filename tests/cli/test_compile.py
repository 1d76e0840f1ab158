"""`llmc compile`."""

import json
import os
from pathlib import Path

import pytest

from runtime.engine_dir.engine_folder import open_engine
from tests.cli.llmc_command import llmc
from tests.paths import MODELS


def test_the_engine_says_what_it_was_made_of(engine: Path) -> None:
    manifest = open_engine(engine).manifest
    assert manifest.model["family"] == "gpt_neox"
    assert manifest.dtype == "float32"
    assert vars(manifest.limits) == {"max_batch": 3, "max_input": 64, "max_seq": 64}
    assert manifest.pipeline == "dtype=float32,merge-linears,fuse-attention,cleanup"
    assert manifest.source.folder == "gptneox-tiny"
    assert manifest.tokens.eos == (0,)
    assert manifest.tokenizer == "tokenizer.json"
    assert manifest.inputs["cache.0.k"] == "f32[B,4,C,32]"
    assert {"python", "torch", "transformers"} <= set(manifest.versions)
    assert set(os.listdir(engine)) == {*manifest.files, "manifest.json"}
    assert {"rank0.ir", "rank0.safetensors", "tokenizer.json"} <= set(manifest.files)


@pytest.mark.parametrize("model", ["gptj-tiny", "mpt-tiny", "opt-tiny"])
def test_the_other_families_compile_and_run(tmp_path: Path, model: str) -> None:
    assert llmc("compile", MODELS / model, "-o", tmp_path / "engine", "--quiet") == (0, "", "")
    result = llmc("run", tmp_path / "engine", "--prompt", "The function", "--max-new-tokens", 4, "--json")
    assert len(json.loads(result.out)["token_ids"]) == 4


def test_the_summary_shows_the_pipeline_and_how_to_go_on(tmp_path: Path) -> None:
    place = tmp_path / "engine"
    result = llmc("compile", MODELS / "gptneox-tiny", "-o", place, "--passes", "cleanup", "--dummy-weights")
    assert result.status == 0
    assert "pipeline  cleanup,merge-linears,fuse-attention\n" in result.out
    assert f"llmc run {place}" in result.out
    assert "dummy weights" in result.out
    assert "note: target: torch" in result.err


def test_sizes_of_plans_are_the_users_and_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    place = tmp_path / "engine"
    arguments = ("compile", MODELS / "opt-tiny", "-o", place, "--target", "tensorrt-rtx", "--max-seq", 300)
    sizes = ("--batch-sizes", "1, 4", "--prompt-sizes", "32", "--capacities", "300", "--workers", 1)
    result = llmc(*arguments, *sizes)
    assert result.status == 0, result.err
    assert "target    tensorrt-rtx (4 plans), torch\n" in result.out
    content = json.loads(llmc(*arguments, *sizes, "--json").out)
    names = ["decode-b1-c384", "decode-b4-c384", "decode-b8-c384", "prefill-s32-c384"]
    assert content["plans"] == {"tensorrt-rtx": names}
    assert [name for name in names if (place / f"rank0.tensorrt-rtx.{name}.engine").is_file()] == names
    # Every engine runs on torch, too.
    assert list(content["manifest"]["targets"]) == ["torch", "tensorrt-rtx"]
    tokens = json.loads(llmc("run", place, "--prompt", "The", "--max-new-tokens", 4, "--json").out)["token_ids"]
    emulated = llmc("run", place, "--prompt", "The", "--max-new-tokens", 4, "--json", "--executor", "emulator")
    assert json.loads(emulated.out)["token_ids"] == tokens


def test_json_is_all_that_is_on_standard_output(tmp_path: Path) -> None:
    result = llmc("compile", MODELS / "gptneox-tiny", "-o", tmp_path / "engine", "--json", "--explain")
    content = json.loads(result.out)
    assert content["path"] == str(tmp_path / "engine")
    assert content["manifest"] == json.loads((tmp_path / "engine" / "manifest.json").read_text())
    assert "cleanup" in content["pass_timings"]
    assert "applied to" in content["explanation"]


def test_the_default_place_is_named_after_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert llmc("compile", MODELS / "gptneox-tiny", "-q").status == 0
    assert os.listdir(tmp_path) == ["gptneox-tiny.engine"]


def test_a_config_alone_compiles_with_dummy_weights(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        if path.name != "config.json":
            path.unlink()
    result = llmc("compile", checkpoint, "-o", tmp_path / "engine", "--dummy-weights")
    assert result.status == 0, result.err
    assert "note: the engine has no tokenizer: its checkpoint had none; put tokenizer.json" in result.err
    arguments = ("run", tmp_path / "engine", "--max-new-tokens", 3, "--json")
    llmc(*arguments, "--prompt", "text").failed("prompt 1 is text, but the engine has no tokenizer", "--prompt-ids")
    completion = json.loads(llmc(*arguments, "--prompt-ids", "1,2,3").out)
    assert completion["prompt_ids"] == [1, 2, 3]
    assert completion["prompt"] == completion["text"] == ""
    assert len(completion["token_ids"]) == 3


def test_every_stage_is_dumped(tmp_path: Path) -> None:
    result = llmc(
        "compile", MODELS / "mpt-tiny", "-o", tmp_path / "engine", "--dump-ir", tmp_path / "dumps", "--passes", "dce"
    )
    assert result.status == 0, result.err
    assert sorted(os.listdir(tmp_path / "dumps")) == [
        "00-lift.ir",
        "01-dce.ir",
        "02-merge-linears.ir",
        "03-fuse-attention.ir",
        "04-cleanup.ir",
    ]


def test_the_defaults_of_requests_are_kept_and_what_cannot_be_applied_is_noted(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = {"eos_token_id": [0, 5], "repetition_penalty": 1.2, "stop_strings": ["END"], "penalty_alpha": 0.6}
    (checkpoint / "generation_config.json").write_text(json.dumps(config))
    result = llmc("compile", checkpoint, "-o", tmp_path / "engine")
    assert "note: generation_config.json sets 'penalty_alpha' to 0.6, which is not applied" in result.err
    manifest = open_engine(tmp_path / "engine").manifest
    assert manifest.tokens.eos == (0, 5)
    assert manifest.generation == {"repetition_penalty": 1.2, "stop_strings": ["END"]}
    assert "repetition_penalty" not in result.err


def test_a_wrong_default_of_requests_is_an_error_before_any_weight_is_read(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "generation_config.json").write_text('{"top_p": 1.5}')
    for dry in ((), ("--dry-run",)):
        result = llmc("compile", checkpoint, "-o", tmp_path / "engine", "--dummy-weights", *dry)
        result.failed("generation_config.json: top_p is 1.5; it must be a finite number at least 0", "1 keeps all")
    assert not (tmp_path / "engine").exists()


PLUGIN = '''
from dataclasses import dataclass
import llmc

@llmc.register_pass("rename")
@dataclass(frozen=True)
class Rename:
    """Give the graph another name."""
    to: str = "other"
    def __call__(self, graph):
        from dataclasses import replace
        return replace(graph, name=self.to)
'''


def test_a_pass_of_the_users_own_takes_part(tmp_path: Path) -> None:
    (tmp_path / "rename.py").write_text(PLUGIN)
    result = llmc(
        *("compile", MODELS / "mpt-tiny", "-o", tmp_path / "engine"),
        *("--plugin", tmp_path / "rename.py", "--passes", "rename=mine"),
    )
    assert result.status == 0, result.err
    assert (tmp_path / "engine" / "rank0.ir").read_text().startswith("graph mine version 1\n")
    assert open_engine(tmp_path / "engine").manifest.pipeline.startswith("rename=mine,")
