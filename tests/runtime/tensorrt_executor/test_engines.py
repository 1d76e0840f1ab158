"""Engines that TensorRT-RTX built, emulated and, where there is a GPU, run."""

from pathlib import Path

import pytest
import torch

import llmc
from compiler.errors import EngineError, TargetError
from runtime.engine_folder import open_engine
from runtime.tensorrt_executor import TensorRTExecutor

pytest.importorskip("tensorrt_rtx")
MODELS = Path(__file__).parents[3] / "examples" / "models"
PROMPTS = [[5, 6, 7], list(range(3, 27)), [9], [40, 41], list(range(60, 90)), [8, 8, 8]]
TARGET = "tensorrt-rtx"


@pytest.fixture(scope="module", params=["gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny"])
def engine(request, tmp_path_factory):
    """An engine for torch and TensorRT-RTX. Two rows, so that slots are reused and a row is near its end at times."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    target = f"torch,{TARGET}"
    llmc.compile(
        MODELS / request.param, place, target=target, dtype="float32", max_batch=2, max_input=32, max_seq=48
    )  # fmt: skip
    return place


def tokens(engine):
    return [c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=48, ignore_eos=True, note=lambda _: None)]


def test_an_emulated_engine_says_what_torch_says(engine) -> None:
    emulated = llmc.load(engine, executor="emulator")
    reference = llmc.load(engine, executor="torch", device="cpu")
    assert emulated.executor.name == "emulator"
    assert tokens(emulated) == tokens(reference)
    torch.testing.assert_close(emulated.logits(PROMPTS[1]), reference.logits(PROMPTS[1]), rtol=1e-4, atol=1e-4)


def test_the_emulator_runs_on_the_cpu(engine) -> None:
    llmc.load(engine, executor="emulator", device="cpu")
    with pytest.raises(TargetError, match="the emulator runs on the CPU, not on cuda"):
        llmc.load(engine, executor="emulator", device="cuda")


def test_an_engine_of_another_version_is_refused_before_a_gpu_is_looked_for(engine, tmp_path) -> None:
    folder = open_engine(engine)
    files = folder.rank(TARGET)
    network = (folder.path / files["network"]).read_text()
    (tmp_path / files["network"]).write_text(network.replace("tensorrt_rtx ", "tensorrt_rtx 0."))
    with pytest.raises(TargetError, match=r"was built with tensorrt_rtx 0\.1.* is installed"):
        TensorRTExecutor.load(tmp_path, files)


def test_a_missing_network_is_named(engine, tmp_path) -> None:
    files = open_engine(engine).rank(TARGET)
    for emulate in (True, False):
        with pytest.raises(EngineError, match=files["network"]):
            TensorRTExecutor.load(tmp_path, files, emulate=emulate)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_mend_is_the_emulator(engine) -> None:
    with pytest.raises(TargetError, match="runs on a CUDA GPU") as raised:
        llmc.load(engine, executor="tensorrt")
    assert "--executor emulator" in str(raised.value.hint)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_what_torch_says(engine, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real, reference = llmc.load(engine, executor="tensorrt"), llmc.load(engine, executor="torch", device="cpu")
    assert real.executor.name == TARGET
    ours, theirs = real.logits(PROMPTS[1]).cpu(), reference.logits(PROMPTS[1])
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    folder = open_engine(engine)
    plain = llmc.load(engine, executor="tensorrt")
    plain.executor = TensorRTExecutor.load(folder.path, folder.rank(TARGET), cuda_graphs=False)
    assert tokens(real) == tokens(plain)
