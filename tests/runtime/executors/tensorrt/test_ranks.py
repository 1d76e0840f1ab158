"""Engines of several ranks, which TensorRT-RTX built for each of them, emulated in threads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import llmc
from compiler.backend_trt import BuildOptions, build_plans
from compiler.errors import EngineError, TargetError
from compiler.ir.mesh import mesh_of
from compiler.ir.step import Step
from compiler.store import write_ranks
from compiler.store.constant_loader import constant_loader
from compiler.trt_network.library import load_library
from runtime.collectives.communicator import SingleRank
from runtime.executors.interface import Executor
from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.executors.tensorrt.ranks import nccl_capsule
from runtime.executors.torch.executor import TorchExecutor
from runtime.generation.generate import generate
from runtime.generation.requests import Request
from tests.paths import MODELS
from tests.runtime.executors.tensorrt.thread_ranks import ThreadExecutor, ThreadGroup

pytest.importorskip("tensorrt_rtx")
BATCH, SEQ = 3, 64
OPTIONS = BuildOptions(batch_sizes=(1, BATCH), prompt_sizes=(16,), workers=1)
# More prompts than rows, so that slots are reused; two are taken in by chunks, some have one token.
PROMPTS = [[5, 6, 7], [(7 * i + 3) % 97 for i in range(20)], [9], [40, 41], [3] * 17, [8]]
VOCAB = 1024


def build(model: str, mesh: str, folder: Path) -> list[dict[str, str]]:
    """The files of each rank."""
    folder.mkdir(exist_ok=True)
    graph = llmc.lift(MODELS / model, max_batch=BATCH, max_input=32, max_seq=SEQ)
    passes = ",".join(filter(None, ["dtype=float32", mesh, "merge-linears,fuse-attention,cleanup"]))
    files = []
    for rank in write_ranks(llmc.optimize(graph, passes).graph, folder):
        own = replace(rank.graph, root=str(folder))
        plans = build_plans(
            load_library("tensorrt-rtx"), own, constant_loader(own), folder, rank.weights_file,
            name=f"rank{rank.rank}.tensorrt-rtx", options=OPTIONS,
        )  # fmt: skip
        files.append({"graph": rank.graph_file, "weights": rank.weights_file, "plans": plans})
    return files


def over_threads(folder: Path, files: list[dict[str, str]], *, tokens: int = 256) -> ThreadExecutor:
    """An executor over all ranks; `tokens` is how many a part of a batch has in a pipeline."""
    mesh = mesh_of(llmc.read_graph(folder / files[0]["graph"]))
    stages = [ThreadGroup(mesh.tp).ranks() for _ in range(mesh.pp)]
    pipelines = [ThreadGroup(mesh.pp).ranks() for _ in range(mesh.tp)]
    ranks: list[Executor] = []
    for rank, own in enumerate(files):
        stage, place = mesh.place(rank)
        executor = TensorRTExecutor.load(folder, own, emulate=True, group=stages[stage][place])
        if mesh.pp > 1:
            logits = LogitsType(VOCAB, torch.float32)
            ranks.append(PipelineExecutor(executor, pipelines[place][stage], logits, tokens=tokens))
        else:
            ranks.append(executor)
    return ThreadExecutor(ranks)


def tokens_of(executor, new_tokens=6):
    requests = [Request(tuple(prompt), new_tokens) for prompt in PROMPTS]
    return [result.token_ids for result in generate(executor, requests, batch=BATCH)[0]]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The tokens of one rank, by torch."""
    found: dict[str, list[list[int]]] = {}

    def of(model: str) -> list[list[int]]:
        if model not in found:
            folder = tmp_path_factory.mktemp(model)
            graph = llmc.lift(MODELS / model, max_batch=BATCH, max_input=32, max_seq=SEQ)
            write_ranks(llmc.optimize(graph, "dtype=float32,cleanup").graph, folder)
            found[model] = tokens_of(TorchExecutor.load(folder / "rank0.ir", device="cpu"))
        return found[model]

    return of


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        *((model, "tp=2") for model in ("gptneox-tiny", "gptj-tiny", "opt-tiny", "mpt-tiny")),
        ("gptj-tiny", "tp=4,embed=vocab"),
        ("opt-tiny", "pp=2"),
        ("gptneox-tiny", "tp=2,embed=vocab,pp=2"),
    ],
)
def test_every_mesh_generates_what_one_rank_does(model, mesh, tmp_path, expected) -> None:
    files = build(model, mesh, tmp_path)
    assert tokens_of(over_threads(tmp_path, files)) == expected(model)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Two stages of GPT-NeoX: the folder, and the files of each."""
    folder = tmp_path_factory.mktemp("pipeline")
    return folder, build("gptneox-tiny", "pp=2", folder)


@pytest.mark.parametrize("tokens", [1, 20])
def test_parts_of_a_batch_leave_the_other_rows_alone(pipeline, expected, tokens) -> None:
    executor = over_threads(*pipeline, tokens=tokens)
    assert tokens_of(executor) == expected("gptneox-tiny")


def test_a_stage_gives_what_it_sends_for_all_rows_and_tokens(pipeline) -> None:
    folder, files = pipeline
    first, last = (TensorRTExecutor.load(folder, own, emulate=True).open_stage(BATCH, SEQ) for own in files)
    assert dict(first.buffers(2, 5)) == {}
    ((name, buffer),) = last.buffers(2, 5).items()
    assert name.startswith("recv.0.")
    assert buffer.shape == (2, 5, 128)
    assert buffer.is_contiguous()
    ids = torch.arange(10, dtype=torch.int32).view(2, 5)
    past, new, at = (torch.tensor(values, dtype=torch.int32) for values in ([0, 0], [5, 1], [[4], [0]]))
    ((sent, made),) = first.step(slice(1, 3), Step(ids, past, new, at), {}).items()
    assert sent == name.replace("recv.0", "send.1")
    assert made.shape == (2, 5, 128)
    assert made[0].abs().amin(1).gt(0).all()
    assert made[1, 0].abs().sum() > 0
    assert not made[1, 1:].any()
    logits = last.step(slice(1, 3), Step(ids, past, new, at), {name: made})
    assert set(logits) == {"logits"}
    assert logits["logits"].shape == (2, 1, VOCAB)
    assert not any(cache[0].any() for cache in (*first.caches.tensors.values(), *last.caches.tensors.values()))


def test_a_head_that_is_a_stage_is_sent_the_wanted_positions_only(tmp_path, expected) -> None:
    files = build("gptneox-tiny", "pp=8", tmp_path)
    executor = over_threads(tmp_path, files, tokens=20)
    head, norm = (
        TensorRTExecutor.load(tmp_path, own, emulate=True).open_stage(BATCH, SEQ) for own in (files[7], files[6])
    )
    for stage in (head, norm):
        ((_, buffer),) = stage.buffers(2, 9, 3).items()
        assert buffer.shape == (2, 3, 128)
    assert tokens_of(executor) == expected("gptneox-tiny")
    # Several logits of each row, in any order, of rows with several tokens, one and none.
    ids = torch.arange(3 * 20, dtype=torch.int32).view(3, 20)
    past, new, at = (
        torch.tensor(values, dtype=torch.int32)
        for values in ([0, 0, 0], [20, 1, 0], [[19, 2, 17, 2], [0, 0, 0, 0], [0, 0, 0, 0]])
    )
    step = Step(ids, past, new, at)
    found = executor.open(BATCH, SEQ).step(step)
    (tmp_path / "one").mkdir()
    graph = llmc.lift(MODELS / "gptneox-tiny", max_batch=BATCH, max_input=32, max_seq=SEQ)
    write_ranks(llmc.optimize(graph, "dtype=float32,cleanup").graph, tmp_path / "one")
    wanted = TorchExecutor.load(tmp_path / "one" / "rank0.ir", device="cpu").open(BATCH, SEQ).step(step)
    torch.testing.assert_close(found[:2], wanted[:2], rtol=1e-3, atol=1e-3)


def test_a_stage_cannot_be_run_as_a_whole(pipeline) -> None:
    folder, files = pipeline
    for own in files:
        with pytest.raises(EngineError, match="one stage of several"):
            TensorRTExecutor.load(folder, own, emulate=True).open(1, 8)


def test_ranks_must_be_as_many_as_the_plans_are_for(tmp_path) -> None:
    files = build("gptj-tiny", "tp=2", tmp_path)
    for group, others in ((None, 0), (ThreadGroup(3).ranks()[0], 2)):
        with pytest.raises(TargetError, match=f"by 2 ranks together; this rank has {others} others"):
            TensorRTExecutor.load(tmp_path, files[0], emulate=True, group=group)


def test_a_gpu_needs_a_group_that_has_nccl() -> None:
    assert nccl_capsule(SingleRank()) is None
    with pytest.raises(TargetError, match="by NCCL, not by ThreadCommunicator"):
        nccl_capsule(ThreadGroup(2).ranks()[0])
