"""Engines that TensorRT-RTX built, emulated and, where there is a GPU, run."""

import shutil

import pytest
import torch

import llmc
from compiler.backend_trt import BuildOptions
from compiler.errors import EngineError, RequestError, TargetError
from compiler.ir.step import Step
from compiler.trt_network.plans import read_plans
from runtime.engine_dir.engine_folder import open_engine
from runtime.executors.tensorrt.executor import TensorRTExecutor
from tests.paths import MODELS

pytest.importorskip("tensorrt_rtx")
PROMPTS = [[5, 6, 7], list(range(3, 27)), [9], [40, 41], list(range(60, 90)), [8, 8, 8]]
TARGET = "tensorrt-rtx"


@pytest.fixture(scope="module", params=["gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny"])
def engine(request, tmp_path_factory):
    """An engine of two rows, so that slots are reused, with caches of 128 slots at first, and then of 512."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    llmc.compile(
        MODELS / request.param, place, target=TARGET, dtype="float32", max_batch=2, max_input=32, max_seq=512,
        build=BuildOptions(capacities=(100,)),
    )  # fmt: skip
    return place


def emulator(engine, **options) -> TensorRTExecutor:
    return TensorRTExecutor.load(engine, open_engine(engine).rank(TARGET), emulate=True, **options)


def tokens(engine, count=24):
    return [c.token_ids for c in engine.generate(PROMPTS, max_new_tokens=count, ignore_eos=True, note=lambda _: None)]


def test_an_emulated_engine_says_what_the_interpreter_says(engine) -> None:
    emulated, reference = llmc.load(engine, executor="emulator"), llmc.load(engine, executor="interpreter")
    assert emulated.executor.name == "emulator"
    assert tokens(emulated) == tokens(reference)
    torch.testing.assert_close(emulated.logits(PROMPTS[1]), reference.logits(PROMPTS[1]), rtol=1e-4, atol=1e-4)


def compare_steps(executor, reference, capacity, steps):
    """Give the rows of two sessions the same tokens, step by step: logits of rows in use must agree."""
    sessions = [e.open(2, capacity) for e in (executor, reference)]
    past = torch.zeros(2, dtype=torch.int32)
    for prompts in steps:
        counts = torch.tensor([len(p) for p in prompts], dtype=torch.int32)
        width = max(map(len, prompts))
        ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], dtype=torch.int32)
        last = (counts - 1).clamp_min(0)[:, None]
        ours, theirs = (session.step(Step(ids, past, counts, last)) for session in sessions)
        torch.testing.assert_close(ours[counts > 0], theirs[counts > 0].to(ours.dtype), rtol=1e-3, atol=1e-3)
        past += counts
    return sessions[0]


def test_ragged_steps_prompts_in_pieces_and_growing_caches(engine) -> None:
    reference = llmc.load(engine, executor="torch", device="cpu").executor
    prompt = [(7 * i + 3) % 97 for i in range(100)]
    steps = [
        [prompt, [5]],  # four chunks beside a single token
        [[9], [10, 11, 12]],
        [[], [13]],
        [prompt, []],  # now there are more than 128: larger caches
        [prompt[:60], prompt[:40]],
        [[1], [2]],
        [[3], [4]],
    ]
    session = compare_steps(emulator(engine), reference, 512, steps)
    assert session.stage.caches.size.capacity == 512


def test_padding_and_idle_rows_at_the_end_of_the_caches(engine) -> None:
    reference = llmc.load(engine, executor="torch", device="cpu").executor
    prompt = [(7 * i + 3) % 97 for i in range(512)]
    compare_steps(
        emulator(engine),
        reference,
        512,
        [
            [prompt[:500], [5, 6]],
            [prompt[500:510], [7]],  # padded to 32 tokens, beyond the caches and the positions that OPT has learned
            [prompt[510:], [8]],
            [[], [9]],  # a full row is idle in a run over all rows
            [[], [10, 11, 12]],
        ],
    )


def test_plans_are_loaded_when_they_are_used(engine) -> None:
    executor = emulator(engine)
    executor.open(1, 128)
    assert {plan.name for plan in executor.plans if "engine" in vars(plan)} == {"decode-b1-c128", "prefill-s32-c128"}


def test_what_layers_make_can_be_seen(engine) -> None:
    seen: dict[str, list[tuple[int, ...]]] = {}

    def observe(layer, made) -> None:
        seen.setdefault(layer.kind, []).append(tuple(made[0].shape))

    session = emulator(engine, observe=observe).open(1, 8)
    session.step(Step.of_prompts([[5, 6, 7]]))
    assert {shape[0] for shape in seen["KV_CACHE_UPDATE"]} == {1}
    assert any(32 in shape for shape in seen["MATRIX_MULTIPLY"])  # the tokens with their padding


def test_what_no_plan_takes_is_refused_with_the_limits(engine) -> None:
    for batch, capacity in ((3, 100), (1, 513)):
        with pytest.raises(RequestError, match=f"{batch} sequences of {capacity} tokens .* 2 to 2 sequences of 512"):
            emulator(engine).open(batch, capacity)


def test_the_emulator_runs_on_the_cpu(engine) -> None:
    llmc.load(engine, executor="emulator", device="cpu")
    with pytest.raises(TargetError, match="the emulator runs on the CPU, not on cuda"):
        llmc.load(engine, executor="emulator", device="cuda")


def test_an_engine_of_another_version_is_refused_before_a_gpu_is_looked_for(engine, tmp_path) -> None:
    folder = open_engine(engine)
    copied = shutil.copytree(engine, tmp_path / "engine")
    plans = read_plans(copied / folder.rank(TARGET)["plans"])
    last = copied / plans.plans[-1].network
    last.write_text(last.read_text().replace("tensorrt_rtx ", "tensorrt_rtx 0."))
    with pytest.raises(TargetError, match=r"was built with tensorrt_rtx 0\.1.* is installed"):
        TensorRTExecutor.load(copied, folder.rank(TARGET))


def test_missing_files_are_named(engine, tmp_path) -> None:
    files = open_engine(engine).rank(TARGET)
    copied = shutil.copytree(engine, tmp_path / "engine")
    plans = read_plans(copied / files["plans"])
    for name in (plans.weights, plans.plans[0].network, files["plans"]):
        (copied / name).unlink()
        with pytest.raises(EngineError, match=name):
            TensorRTExecutor.load(copied, files, emulate=True)


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
