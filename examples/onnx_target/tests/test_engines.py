"""Engines with the target: token by token what the interpreter generates, for every family."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

import llmc
from compiler.errors import EngineError, RequestError, TargetError
from compiler.ir.step import Step
from examples.llama_family.tests.small import checkpoint
from tests.cli.llmc_command import llmc as command
from tests.paths import MODELS

onnx = pytest.importorskip("onnx", reason="the target needs the package onnx")
pytest.importorskip("onnxruntime", reason="the executor needs the package onnxruntime")

PROMPTS = [[72, 300, 5, 911, 40, 8], [17], [600, 2, 2, 31]]
LIMITS = {"max_batch": 3, "max_seq": 32}
OWN = ("gptneox", "gptj", "opt", "mpt")
FAMILIES = (*OWN, "llama", "gpt2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """The checkpoint of a family, not to be changed."""
    made = cache(lambda family: checkpoint(family, tmp_path_factory.mktemp(family)))
    return lambda family: MODELS / f"{family}-tiny" if family in OWN else made(family)


def engine(model: Path, folder: Path, passes: str = "", dtype: str = "float32") -> Path:
    return llmc.compile(model, folder / "engine", target="onnx", passes=passes, dtype=dtype, **LIMITS).path


def tokens(path: Path, executor: str) -> list[list[int]]:
    found = llmc.load(path, executor=executor).generate(PROMPTS, max_new_tokens=8, ignore_eos=True)
    return [one.token_ids for one in found]


@pytest.mark.parametrize("passes", ["", "quant=int4:group=32", "quant=int8,fuse-attention=off"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_interpreter(model, tmp_path: Path, family: str, passes: str) -> None:
    path = engine(model(family), tmp_path, passes)
    onnx.checker.check_model(str(path / "rank0.onnx"))
    assert tokens(path, "onnx") == tokens(path, "interpreter")


@pytest.mark.parametrize("passes", ["quant=smoothquant,kv=int8", "quant=fp8", "quant=gptq:group=32"])
def test_what_is_calibrated_is_as_near_as_verify_allows(model, tmp_path: Path, passes: str) -> None:
    """Activations that are rounded to 8 bits may fall to either side of a step, and so may tokens."""
    path = llmc.compile(
        model("opt"), tmp_path / "engine", target="onnx", passes=passes, dtype="float32",
        calib_samples=2, calib_length=16, **LIMITS,
    ).path  # fmt: skip
    assert llmc.verify(path, executor="onnx", random=2, max_new_tokens=4).holds


def test_float16_is_as_near_as_verify_allows(model, tmp_path: Path) -> None:
    path = engine(model("gptneox"), tmp_path, dtype="float16")
    verified = llmc.verify(path, executor="onnx", random=2, max_new_tokens=4)
    assert (verified.executor, verified.holds) == ("onnx", True)
    assert llmc.load(path, device="cpu").executor.name == "onnx"  # without being asked for


def test_weights_lie_where_the_engine_has_them(model, tmp_path: Path) -> None:
    path = engine(model("gptneox"), tmp_path)
    assert not list(path.glob("*.data"))
    made = onnx.load(path / "rank0.onnx", load_external_data=False)
    outside = [weight for weight in made.graph.initializer if weight.external_data]
    assert {entry.value for weight in outside for entry in weight.external_data if entry.key == "location"} == {
        "rank0.safetensors"
    }
    assert {"cache.0.k", "token_ids"} < {value.name for value in made.graph.input}
    assert {"next.cache.0.k", "logits"} < {value.name for value in made.graph.output}


def test_weights_of_4_bits_take_as_little_in_the_model(model, tmp_path: Path) -> None:
    path = engine(model("gptneox"), tmp_path, "quant=int4:group=32")
    facts = json.loads(command("inspect", path, "--json").out)["onnx"]
    assert facts["nodes"]["MatMulNBits"] == 4 * 4  # merged linears: one for q, k and v, and three more
    weights = 4 * 12 * 128 * 128
    assert facts["files"]["rank0.onnx.data"] == weights // 2 + weights // 32 * 4
    assert "MatMulNBits" not in command("inspect", path).out
    assert "nodes, opset ai.onnx 21, com.microsoft 1" in command("inspect", path).out


def test_inputs_that_quantized_weights_multiply_may_be_rounded(model, tmp_path: Path) -> None:
    """Asked for by an option of the target; the weights of 8 bits are then multiplied as they are."""
    options = {"passes": "quant=int8", "dtype": "float32", **LIMITS}
    path = llmc.compile(model("gptneox"), tmp_path / "engine", target="onnx:inputs=int8", **options).path
    assert json.loads(command("inspect", path, "--json").out)["onnx"]["nodes"]["MatMulNBits"] == 16
    assert llmc.verify(path, executor="onnx", random=2, max_new_tokens=4, tolerance=0.1).holds


def test_stages_of_a_pipeline_run_one_after_the_other(model, tmp_path: Path) -> None:
    from llmc_onnx.executor import OnnxExecutor

    whole = engine(model("llama"), tmp_path / "whole")
    split = engine(model("llama"), tmp_path / "split", "pp=2")
    step = Step(*(torch.tensor(part, dtype=torch.int32) for part in ([PROMPTS[0]], [0], [6], [[5]])))
    expected = llmc.load(whole, executor="interpreter").executor.open(1, 32).step(step)
    sent: dict[str, torch.Tensor] = {}
    for rank in range(2):
        files = {"graph": f"rank{rank}.ir", "model": f"rank{rank}.onnx"}
        stage = OnnxExecutor.load(split, files).open_stage(1, 32)
        received = {name: sent[name.replace("recv.0", "send.1")] for name in stage.buffers(1, 6)}
        sent = stage.step(slice(0, 1), step, received)
    torch.testing.assert_close(sent["logits"], expected, rtol=1e-5, atol=1e-5)


def test_caches_grow_with_the_sequences_up_to_the_capacity(model, tmp_path: Path) -> None:
    path = llmc.compile(
        model("opt"), tmp_path / "engine", target="onnx", dtype="float32", max_batch=2, max_seq=160
    ).path
    options = {"max_new_tokens": 80, "ignore_eos": True}
    found = {
        executor: [one.token_ids for one in llmc.load(path, executor=executor).generate(PROMPTS, **options)]
        for executor in ("onnx", "torch")
    }
    assert found["onnx"] == found["torch"]
    session = llmc.load(path, executor="onnx").executor.open(1, 100)
    step = Step(*(torch.tensor(part, dtype=torch.int32) for part in ([[5]], [100], [1], [[0]])))
    with pytest.raises(RequestError, match="a sequence grew to 101 tokens; the caches hold 100"):
        session.step(step)


@pytest.mark.parametrize(
    ("passes", "dtype", "message"),
    [
        ("tp=2", "float32", "all_reduce %layers.0.after_mlp.all_reduce: onnxruntime has no operator by which ranks"),
        ("cache=paged", "float32", "the ONNX target has linear caches, one row for each sequence; those of"),
        ("kv=fp8", "float32", "the cache %cache.0.k is f8e4m3[B,4,C,32], and ONNX has no operator that writes parts"),
        ("", "bfloat16", "%cache.0.k is bf16[B,4,C,32], in which onnxruntime does not compute on a CPU"),
    ],
)
def test_what_it_cannot_is_said_before_anything_is_written(model, tmp_path: Path, passes, dtype, message) -> None:
    with pytest.raises(TargetError) as error:
        engine(model("gptneox"), tmp_path, passes, dtype)
    assert error.value.message.startswith(message)
    assert error.value.hint
    assert not (tmp_path / "engine").exists()


def test_without_onnxruntime_the_engine_runs_on_torch_and_says_why(model, tmp_path: Path, monkeypatch) -> None:
    path = engine(model("gptneox"), tmp_path)
    monkeypatch.setattr("llmc_onnx.kind.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="runs on torch: onnxruntime, which runs its ONNX models, is not installed"):
        assert llmc.load(path, device="cpu").executor.name == "torch"
    with pytest.raises(TargetError, match="the Python package onnxruntime is not installed"):
        llmc.load(path, executor="onnx")


def test_a_model_that_is_damaged_is_named(model, tmp_path: Path) -> None:
    path = engine(model("gptneox"), tmp_path)
    (path / "rank0.onnx").write_bytes(b"\0" * (path / "rank0.onnx").stat().st_size)
    with pytest.raises(EngineError, match=r"rank0\.onnx is damaged or was changed"):
        llmc.load(path, executor="onnx")
    from llmc_onnx.executor import OnnxExecutor

    with pytest.raises(EngineError, match=r"cannot load .*rank0\.onnx"):
        OnnxExecutor.load(path, {"graph": "rank0.ir", "model": "rank0.onnx"})
    shutil.rmtree(path)
