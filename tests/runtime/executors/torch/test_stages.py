"""Sessions of one stage: what they receive and send, by rows of a batch."""

import pytest
import torch

import llmc
from compiler.errors import EngineError, GraphError, RequestError
from compiler.ir.interpreter import Interpreter
from compiler.ir.mesh import rank_graph
from compiler.ir.step import Step
from compiler.ir.torch_types import to_torch
from compiler.store import write_ranks
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.parallel.pipeline import LogitsType, PipelineSession
from runtime.executors.torch.executor import TorchExecutor
from runtime.executors.torch.session import TorchStageSession
from tests.paths import MODELS
from tests.runtime.executors.torch.thread_ranks import run_ranks


def i32(*values):
    return torch.tensor(values, dtype=torch.int32)


def graph_of(family, passes):
    return llmc.optimize(llmc.lift(MODELS / f"{family}-tiny", max_batch=4, max_seq=100), passes).graph


def zeros(graph, **sizes):
    return {
        name: torch.zeros(value.type.sizes(sizes), dtype=to_torch(value.type.dtype))
        for name, (value, _) in graph.states().items()
    }


def run_stages(stages, rows, step):
    """The logits of a step through all stages, each of which hands on what it sends."""
    arrived: dict[str, torch.Tensor] = {}
    count, length = step[0].shape
    for number, stage in enumerate(stages):
        buffers = stage.buffers(count, length, step[3].shape[1])
        for name, buffer in buffers.items():
            assert buffer.is_contiguous()
            _, source, value = name.split(".", 2)
            sent = arrived[f"{source}>{number} {value}"]
            assert (sent.shape, sent.dtype) == (buffer.shape, buffer.dtype)
            buffer.copy_(sent)
        results = stage.step(rows, Step(*step), buffers)
        for role, tensor in results.items():
            if role.startswith("send."):
                _, to, value = role.split(".", 2)
                arrived[f"{number}>{to} {value}"] = tensor
    assert list(results) == ["logits"]
    return results["logits"].clone()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("pp", [1, 2, 3, 7])
def test_stages_over_rows_agree_with_the_interpreter(tmp_path, dtype, pp):
    """Rows in two parts, ragged, one of them idle; 16-bit values are held as float32, so exact ones are meant."""
    whole = graph_of("gptneox", f"dtype={dtype},cleanup")
    write_ranks(graph_of("gptneox", f"dtype={dtype},pp={pp},merge-linears,fuse-attention,cleanup"), tmp_path)
    stages = [TorchExecutor.load(tmp_path / f"rank{n}.ir", device="cpu").open_stage(3, 90) for n in range(pp)]
    run, states = Interpreter(whole, exact=True), zeros(whole, B=3, C=90)
    past, generator = i32(0, 0, 0), torch.Generator().manual_seed(0)
    for counts in ([4, 7, 2], [1, 1, 1], [1, 0, 1], [5, 3, 70]):
        new = i32(*counts)
        ids = torch.randint(1, 1000, (3, max(counts)), generator=generator, dtype=torch.int32)
        last = (new - 1).clamp(min=0)
        step = (ids, past, new, torch.stack((last, last // 2), 1))
        expected = run({**dict(zip(("token_ids", "past_len", "new_len", "logit_pos"), step, strict=True)), **states})
        for rows in (slice(2, 3), slice(0, 2)):
            found = run_stages(stages, rows, [tensor[rows] for tensor in step])
            active = new[rows] > 0
            torch.testing.assert_close(found[active], expected["logits"][rows][active], rtol=1e-4, atol=2e-4)
        states, past = {name: expected[name] for name in states}, past + new


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("embed", ["off", "vocab", "hidden"])
def test_ranks_with_16_bit_weights_agree_with_the_interpreter(tmp_path, dtype, embed):
    whole = graph_of("opt", f"dtype={dtype},cleanup")
    write_ranks(graph_of("opt", f"dtype={dtype},tp=2,embed={embed},merge-linears,fuse-attention,cleanup"), tmp_path)
    step = (i32([5, 7, 9], [4, 3, 0]), i32(0, 0), i32(3, 2), i32([2], [1]))
    names = ("token_ids", "past_len", "new_len", "logit_pos")
    given = {**dict(zip(names, step, strict=True)), **zeros(whole, B=2, C=8)}
    expected = Interpreter(whole, exact=True)(given)["logits"]

    def work(world, tp, pp):
        executor = TorchExecutor.load(tmp_path / f"rank{world.rank}.ir", device="cpu", group=tp)
        return executor.open(2, 8).step(Step(*step))

    found = run_ranks(2, 1, work)
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("family", ["gptneox", "mpt"])
def test_a_long_prompt_runs_in_the_same_chunks_on_all_stages(tmp_path, family):
    write_ranks(graph_of(family, "dtype=float32,tp=2,pp=2,merge-linears,fuse-attention,cleanup"), tmp_path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 1000, (2, 20), generator=generator, dtype=torch.int32)
    step = (ids, i32(0, 0), i32(20, 9), i32([19, 3], [8, 0]))
    lengths = []

    class Session(TorchStageSession):
        def step(self, rows, step, received):
            lengths.append(step.token_ids.shape[1])
            return super().step(rows, step, received)

    def logits(chunk):
        def run(world, tp, pp):
            stage = TorchExecutor.load(tmp_path / f"rank{world.rank}.ir", device="cpu", group=tp)
            session = Session(stage, 2, 64)
            session.chunk = chunk + pp.rank
            return PipelineSession(session, pp, LogitsType(1024, torch.float32), 2, 64, tokens=256).step(Step(*step))

        return run_ranks(2, 2, run)[0]

    expected = logits(100)
    assert set(lengths) == {20}
    lengths.clear()
    found = logits(6)
    assert set(lengths) == {6, 2}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)


def test_a_stage_opens_as_a_stage_only(tmp_path):
    graph = graph_of("opt", "dtype=float32,pp=2,cleanup")
    write_ranks(graph, tmp_path)
    for rank in range(2):
        for executor in (
            TorchExecutor.load(tmp_path / f"rank{rank}.ir", device="cpu"),
            InterpreterExecutor(rank_graph(graph, rank)),
        ):
            with pytest.raises(EngineError, match=f"the graph of rank {rank} is one stage of a model"):
                executor.open(1, 8)
            with pytest.raises(RequestError, match="5 sequences were asked for"):
                executor.open_stage(5, 8)


def test_buffers_are_as_large_as_the_part():
    graph = graph_of("gptj", "dtype=float16,pp=7,cleanup")
    before, last = (InterpreterExecutor(rank_graph(graph, rank)).open_stage(3, 8) for rank in (5, 6))
    assert [tuple(each.shape) for each in before.buffers(2, 5).values()] == [(2, 5, 128)]
    assert [tuple(each.shape) for each in last.buffers(2, 5).values()] == [(2, 1, 128)]
    assert [tuple(each.shape) for each in last.buffers(2, 5, 3).values()] == [(2, 3, 128)]


def test_an_input_that_no_step_gives_is_named():
    graph = graph_of("opt", "dtype=float32,pp=2,cleanup")
    last = rank_graph(graph, 1)
    text = llmc.to_text(last).replace("recv.0.", "from.0.")
    with pytest.raises(GraphError, match=r"a step gives no input from\.0\.layers\.1\.after_mlp"):
        InterpreterExecutor(llmc.parse(text))
