"""The pass `kv`: caches in 8 bits."""

from pathlib import Path

import pytest
import torch

from compiler.errors import PassError
from compiler.ir.dtypes import DType
from compiler.ir.files import read_graph
from compiler.ir.graph import Graph
from compiler.ir.mesh import rank_graph
from compiler.ir.step import Step
from compiler.ir.verifier import verify
from compiler.ir.virtual_ranks import VirtualRanks
from compiler.passes import run_pipeline
from compiler.passes.quant.caches.kv import quantize_caches, scale_of
from compiler.passes.quant.calibration.source import CalibrationSource
from compiler.passes.quant.calibration.windows import window_logits
from compiler.store import write_ranks
from runtime.executors.interface import WholeSession
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.torch.executor import TorchExecutor
from tests.frontends.steps import lift_folder, random_rows, run_rows

MODELS = Path("examples/models")


def source(samples: int = 4) -> CalibrationSource:
    generator = torch.Generator().manual_seed(0)
    documents = [tuple(torch.randint(256, (16 * samples,), generator=generator).tolist())]
    return CalibrationSource(documents=documents, samples=samples, length=16)


def quantized(name: str, options: str, found: CalibrationSource | None = None) -> Graph:
    with (found or source()).active():
        return run_pipeline(lift_folder(MODELS / name), f"kv={options},fuse-attention,cleanup").graph


@pytest.mark.parametrize(("options", "bound"), [("int8", 0.03), ("int8:scale=tensor", 0.04), ("fp8", 0.1)])
@pytest.mark.parametrize("name", ["opt-tiny", "gptneox-tiny", "gptj-tiny", "mpt-tiny"])
def test_models_say_nearly_the_same(name: str, options: str, bound: float) -> None:
    graph = quantized(name, options)
    verify(graph)
    rows = random_rows(256, 1)
    expected = torch.cat(run_rows(lift_folder(MODELS / name), rows))
    error = (torch.cat(run_rows(graph, rows)) - expected).norm() / expected.norm()
    assert 1e-5 < error < bound


@pytest.mark.parametrize("options", ["int8", "fp8"])
def test_caches_have_the_type_and_scales_of_heads(options: str) -> None:
    graph = quantized("opt-tiny", options)
    dtype = {"int8": DType.i8, "fp8": DType.f8e4m3}[options]
    assert {cache.type.dtype for cache, _ in graph.states().values()} == {dtype}
    scales = [graph.producers[op.operands[1].name] for op in graph.find("dequantize")]
    assert len(scales) == 8 and all(scale.attrs["shape"] == (1, 4, 1, 1) for scale in scales)
    assert len({value for scale in scales for value in scale.attrs["values"]}) > 24


def test_a_scale_for_a_whole_cache() -> None:
    graph = quantized("opt-tiny", "int8:scale=tensor")
    assert {op.attrs["shape"] for op in graph.find("literal") if len(op.attrs["shape"]) == 4} == {(1, 1, 1, 1)}


def test_errors_of_caches_are_measured_on_few_windows_unless_all_are_wanted() -> None:
    quick, full, off = source(samples=20), source(samples=20), source(samples=20)
    full.report.extent, off.report.extent = "full", "off"
    graphs = [quantized("opt-tiny", "int8", each) for each in (quick, full, off)]
    assert graphs[0].ops == graphs[1].ops == graphs[2].ops
    (said,) = quick.report.samples
    assert (said.measured, said.quantized, said.windows) == (8, 8, 2)
    assert not full.report.samples and not off.report.entries
    found = zip(quick.report.entries, full.report.entries, strict=True)
    assert all(0 < abs(few.error / all_.error - 1) < 0.5 for few, all_ in found)


def test_layers_that_lose_too_much_stay_as_they_are() -> None:
    found = source()
    found.report.extent = "full"  # as the choice measures
    quantized("opt-tiny", "int8", found)
    errors = {entry.op: entry.error for entry in found.report.entries}
    assert len(errors) == 8 and all(1e-4 < error < 0.1 for error in errors.values())
    worst = max(errors, key=lambda op: errors[op])
    graph = quantized("opt-tiny", f"int8:fallback={errors[worst] * 0.999}")
    types = {name: cache.type.dtype for name, (cache, _) in graph.states().items()}
    kept = {name for name, dtype in types.items() if dtype is DType.f16}
    layer = worst.split(".")[1]
    assert kept == {f"cache.{layer}.k", f"cache.{layer}.v"}


@pytest.mark.parametrize("options", ["int8", "fp8"])
def test_the_torch_executor_keeps_caches_quantized(options: str, tmp_path: Path) -> None:
    write_ranks(quantized("opt-tiny", options), tmp_path)
    graph = read_graph(tmp_path / "rank0.ir")
    session, other = TorchExecutor(graph, device="cpu").open(2, 16), InterpreterExecutor(graph).open(2, 16)
    assert isinstance(session, WholeSession)
    assert {cache.element_size() for cache in session.stage.caches} == {1}
    past = torch.zeros(2, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    for counts in ((5, 3), (1, 1), (2, 1)):
        ids = torch.randint(256, (2, max(counts)), generator=generator, dtype=torch.int32)
        new = torch.tensor(counts, dtype=torch.int32)
        found, expected = (s.step(Step(ids, past, new, (new - 1)[:, None])).float() for s in (session, other))
        assert (found - expected).norm() / expected.norm() < 0.05
        past = past + new


def test_each_rank_has_the_scales_of_its_heads() -> None:
    with source().active():
        graph = run_pipeline(lift_folder(MODELS / "opt-tiny"), "kv=int8,tp=2,fuse-attention").graph
    ranks = [rank_graph(graph, rank) for rank in range(2)]
    scales = [
        {op.name: graph_.producers[op.operands[1].name].attrs["values"] for op in graph_.find("dequantize")}
        for graph_ in ranks
    ]
    assert all(len(values) == 2 for values in scales[0].values()) and scales[0] != scales[1]


def test_what_cannot_be_is_said() -> None:
    graph = lift_folder(MODELS / "opt-tiny")
    with pytest.raises(PassError, match="calibrate with"):
        run_pipeline(graph, "kv=int8")
    with pytest.raises(PassError, match="no error of a cache"):
        run_pipeline(graph, "kv=int8:fallback=-1")
    once = quantize_caches(graph, DType.i8, {"cache.0.k": scale_of(torch.ones(4), DType.i8)})
    with pytest.raises(PassError, match=r"cache\.0\.k is i8.* already"):
        quantize_caches(once, DType.i8, {"cache.0.k": torch.ones(4)})
    assert quantize_caches(graph, DType.i8, {}) is graph


@pytest.mark.parametrize("options", ["int8", "fp8"])
def test_a_window_at_once_reads_what_steps_would(options: str) -> None:
    """So perplexity of whole windows is that of generation: what is nearer to the steps than to 16 bits is rounded."""
    graph, plain = quantized("opt-tiny", options), lift_folder(MODELS / "opt-tiny")
    ids = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    device = torch.device("cpu")
    whole, reference = (next(window_logits(g, ids, device)) for g in (graph, plain))
    ranks = VirtualRanks.of([graph])
    states, rows = ranks.empty_states(2, 16), []
    for i in range(16):
        step = {
            "token_ids": ids[:, i : i + 1],
            "past_len": torch.full((2,), i, dtype=torch.int32),
            "new_len": torch.ones(2, dtype=torch.int32),
            "logit_pos": torch.zeros(2, 1, dtype=torch.int32),
        }
        outputs, states = ranks(step, states)
        rows.append(outputs["logits"].float())
    assert (whole - torch.cat(rows, 1)).norm() < 0.5 * (whole - reference).norm()
