"""Sessions: prefill and ragged decode through caches that are updated in place."""

import pytest
import torch

from compiler.errors import EngineError, RequestError, TargetError
from compiler.frontends import Limits, lift, open_checkpoint
from compiler.ir.interpreter import Interpreter
from compiler.ir.step import Step
from compiler.ir.torch_types import to_torch
from compiler.store import write_ranks
from llmc.opt import optimize
from runtime.executors.interface import WholeSession
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.torch.executor import TorchExecutor
from tests.paths import MODELS


@pytest.fixture(scope="module", params=["gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny"])
def engine(request, tmp_path_factory):
    """The lifted graph, and an executor of the same graph as emitted."""
    graph = lift(open_checkpoint(MODELS / request.param), limits=Limits(max_batch=4, max_seq=100))
    folder = tmp_path_factory.mktemp("engine")
    write_ranks(graph, folder)
    return graph, TorchExecutor.load(folder / "rank0.ir", device="cpu")


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def test_ragged_steps_agree_with_the_interpreter(engine):
    graph, executor = engine
    session = executor.open(batch=3, capacity=90)
    sizes = {"B": 3, "C": 90}
    states = {
        v.name: torch.zeros(v.type.sizes(sizes), dtype=to_torch(v.type.dtype))
        for v in graph.inputs
        if v.name in graph.outputs
    }
    run = Interpreter(graph, exact=True)
    past = i32(0, 0, 0)
    generator = torch.Generator().manual_seed(0)
    # A ragged prefill, a decode step, one row idle, and a long step that makes the session show more of its caches.
    for counts in ([4, 7, 2], [1, 1, 1], [1, 0, 1], [5, 3, 70]):
        new = i32(*counts)
        ids = torch.randint(1, 1000, (3, max(counts)), generator=generator, dtype=torch.int32)
        rows = (new - 1).clamp(min=0)[:, None]
        step = {"token_ids": ids, "past_len": past, "new_len": new, "logit_pos": rows}
        expected = run({**step, **states})
        found = session.step(Step(**step))
        active = new > 0
        torch.testing.assert_close(found[active], expected.pop("logits")[active], rtol=1e-4, atol=2e-4)
        states = expected
        past = past + new


@pytest.mark.parametrize("make", [TorchExecutor, InterpreterExecutor])
def test_a_long_prompt_runs_in_chunks(engine, make):
    graph, executor = engine
    # What is rounded to 16 bits between ops may be rounded otherwise.
    runner = executor if make is TorchExecutor else InterpreterExecutor(optimize(graph, "dtype=float32").graph)
    whole, cut = runner.open(batch=2, capacity=64), runner.open(batch=2, capacity=64)
    assert isinstance(whole, WholeSession) and isinstance(cut, WholeSession)
    assert whole.stage.chunk == 64
    cut.stage.chunk = 7
    generator = torch.Generator().manual_seed(0)
    past = i32(0, 0)
    for counts in ([30, 17], [1, 20], [9, 0]):
        new = i32(*counts)
        ids = torch.randint(1, 1000, (2, max(counts)), generator=generator, dtype=torch.int32)
        wanted = torch.stack(((new - 1).clamp(min=0), new // 2), 1)
        expected, found = (session.step(Step(ids, past, new, wanted)).clone() for session in (whole, cut))
        active = new > 0
        torch.testing.assert_close(found[active], expected[active], rtol=1e-4, atol=2e-4)
        past = past + new


def test_a_step_without_memory_is_an_error_that_the_user_can_mend(engine, monkeypatch):
    _, executor = engine
    session = executor.open(batch=1, capacity=64)

    def no_memory(*inputs, **options):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(session.stage, "_run", no_memory)
    with pytest.raises(RequestError, match=r"no memory for a step of 1 x 3 tokens: .*can't allocate memory") as raised:
        session.step(Step(i32([1, 2, 3]), i32(0), i32(3), i32([2])))
    assert "shorter prompts" in str(raised.value.hint)
    monkeypatch.setattr(torch, "zeros", no_memory)
    with pytest.raises(RequestError, match="no memory for the caches of 4 sequences of 100 tokens"):
        executor.open(4, 100)


def test_the_interpreter_says_that_memory_is_missing(engine, monkeypatch):
    _, executor = engine
    session = InterpreterExecutor(executor.graph).open(1, 64)

    def no_memory(*inputs, **options):
        raise MemoryError

    monkeypatch.setattr(torch.Tensor, "to", no_memory)
    with pytest.raises(RequestError, match="no memory for a step of 1 x 2 tokens: MemoryError"):
        session.step(Step(i32([1, 2]), i32(0), i32(2), i32([1])))


def test_a_slot_can_be_used_again(engine):
    _, executor = engine
    session = executor.open(batch=2, capacity=64)
    prompt = torch.arange(1, 11, dtype=torch.int32).repeat(2, 1)
    first = session.step(Step(prompt, i32(0, 0), i32(10, 10), i32(*[9] * 2)[:, None])).clone()
    again = session.step(Step(prompt, i32(10, 0), i32(0, 10), i32(9, 9)[:, None]))
    torch.testing.assert_close(again[1], first[1])


def test_limits_are_checked(engine):
    _, executor = engine
    with pytest.raises(RequestError, match="5 sequences were asked for; the engine is built for 1 to 4"):
        executor.open(5, 64)
    with pytest.raises(RequestError, match="101 tokens per sequence were asked for; the engine is built for 1 to 100"):
        executor.open(1, 101)
    with pytest.raises(RequestError, match="a sequence grew to 9 tokens; the caches hold 8"):
        executor.open(1, 8).step(Step(torch.ones(1, 9, dtype=torch.int32), i32(0), i32(9), i32(8)[:, None]))


def test_devices_are_checked(engine):
    graph, _ = engine
    with pytest.raises(TargetError, match="there is no device 'tpu'"):
        TorchExecutor(graph, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(TargetError, match="no CUDA GPU that torch can use"):
            TorchExecutor(graph, device="cuda")


def test_truncated_weights_are_named(tmp_path):
    graph = lift(open_checkpoint(MODELS / "opt-tiny"), limits=Limits())
    write_ranks(graph, tmp_path)
    weights = tmp_path / "rank0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(EngineError, match=r"rank0.safetensors ends inside tensor 'layers.3"):
        TorchExecutor.load(tmp_path / "rank0.ir", device="cpu")
