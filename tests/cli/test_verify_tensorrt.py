"""`llmc verify` and `llmc inspect` on TensorRT engines, which are emulated here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmc as api
from compiler.trt_network.plans import read_plans
from llmc.verification.bisect import locate
from llmc.verification.plan_bisect import first_plan_divergence
from llmc.verification.plan_test_cases import plan_test_cases
from llmc.verification.test_cases import TestCase
from runtime.engine_dir.engine_folder import open_engine
from runtime.engine_dir.manifest import EngineLimits
from runtime.executors.tensorrt.executor import TensorRTExecutor
from runtime.generation.requests import Request
from tests.cli.llmc_command import llmc
from tests.paths import MODELS

pytest.importorskip("tensorrt_rtx")

QUICK = ("--prompts", 2, "--max-new-tokens", 3, "--no-verify")
PLANS = [
    *(f"decode-b{rows}-c{slots}" for slots in (128, 256) for rows in (1, 2, 3)),
    *(f"prefill-s{width}-c{slots}" for slots in (128, 256) for width in (16, 64)),
]


@pytest.fixture(scope="module")
def trt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TensorRT engine of opt-tiny in float16, for at most 3 sequences of 200 tokens. Do not change it."""
    place = tmp_path_factory.mktemp("engines") / "engine"
    sizes = ("--max-batch", 3, "--max-input", 64, "--max-seq", 200)
    result = llmc(
        *("compile", MODELS / "opt-tiny", "-o", place, "--target", "tensorrt-rtx", *sizes, "-q"),
        *("--batch-sizes", "2", "--prompt-sizes", "16,64", "--capacities", "100,200", "--workers", 2),
    )
    assert result.status == 0, result.err
    return place


def plans_file(engine: Path) -> str:
    return open_engine(engine).manifest.targets["tensorrt-rtx"][0]["plans"]


def with_record(engine: Path, copy: Path, plan: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an engine in which the network record of a plan has been changed; the manifest lists the new size."""
    shutil.copytree(engine, copy)
    name = next(files.network for files in read_plans(copy / plans_file(copy)).plans if files.name == plan)
    record = json.loads((copy / name).read_text())
    change(record)
    (copy / name).write_text(json.dumps(record))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name]["bytes"] = (copy / name).stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def spoil_norm(record: dict[str, Any]) -> None:
    layer = next(found for found in record["layers"] if found["name"] == "layers.2.ln1.norm")
    layer["params"]["epsilon"] = 1.0


def test_every_plan_agrees_with_the_graph_and_the_checkpoint(trt: Path) -> None:
    for against in ((), ("--against", MODELS / "opt-tiny")):
        content = json.loads(llmc("verify", trt, *QUICK, "--json", *against).out)
        assert content["holds"] is True
        assert content["executor"] == "emulator"
        assert content["tokens_equal"] + content["ties"] == content["tokens"]
        assert content["plans"] == PLANS
        modes = [run["mode"] for run in content["runs"]]
        assert list(dict.fromkeys(modes)) == ["alone", "batch", *PLANS]
    # A prompt of its own fills three quarters of each plan for prompts.
    lengths = {run["mode"]: run["prompt_tokens"] for run in content["runs"]}
    assert (lengths["prefill-s16-c128"], lengths["prefill-s64-c256"]) == (12, 48)


def test_the_output_says_which_plans_were_tried(trt: Path) -> None:
    lines = llmc("verify", trt, *QUICK).out.splitlines()
    assert "plans      all 10, one by one" in lines
    assert sum(" prefill-s64-c256 " in line for line in lines) == 1
    assert sum(" decode-b3-c128 " in line for line in lines) == 2  # two prompts in its three rows


@pytest.mark.parametrize("plan", ["decode-b2-c256", "prefill-s16-c256"])
def test_a_plan_that_prompts_do_not_need_is_tried_all_the_same(trt: Path, tmp_path: Path, plan: str) -> None:
    bad = with_record(trt, tmp_path / "bad", plan, spoil_norm)
    assert llmc("verify", bad, *QUICK, "--plans", "default", "-q").status == 0
    result = llmc("verify", bad, *QUICK)
    assert result.status == 1
    shown = " ".join(result.out.split())  # where lines are wrapped depends on the terminal
    assert "layer_norm %layers.2.ln1.norm from model.decoder.layers.2.self_attn_layer_norm" in shown
    assert "between the emulator and the engine's own graph" in shown
    assert f"plan {plan}" in shown
    divergence = json.loads(llmc("verify", bad, *QUICK, "--json").out)["divergence"]
    assert (divergence["plan"], divergence["op"]) == (plan, "layers.2.ln1.norm")
    assert divergence["step"] == 0
    assert divergence["operands_error"] < 0.01 < divergence["error"]
    assert divergence["shape"] == divergence["reference_shape"] == ([2, 1, 128] if "b2" in plan else [1, 16, 128])


def test_there_are_no_other_choices_of_plans(trt: Path) -> None:
    llmc("verify", trt, "--plans", "some").failed("there are no plans 'some' to verify", "all, default")


def test_padding_that_a_plan_writes_into_caches_does_not_count(trt: Path) -> None:
    graph = api.read_graph(trt / "rank0.ir")
    prompts = ((1,), (2, 3, 4, 5, 6, 7), tuple(range(8, 38)))
    test_case = TestCase("batch", (1, 2, 3), tuple(Request(prompt, 3) for prompt in prompts), 3)
    arguments = (trt, plans_file(trt), graph, test_case)
    assert first_plan_divergence(*arguments, what="", tolerance=0.01) is None
    # The tolerance is what decides: rounding is seen if nothing is allowed.
    found = first_plan_divergence(*arguments, what="", tolerance=1e-6)
    assert found is not None
    assert found.error < 1e-3


def test_padding_beyond_the_caches_does_not_count(trt: Path) -> None:
    graph = api.read_graph(trt / "rank0.ir")
    # 24 tokens are left of the caches for the last chunk, which is 64 tokens wide.
    prompt = tuple(range(120))
    test_case = TestCase("alone", (1,), (Request(prompt, 2),), 1, ("decode-b1-c128", "prefill-s64-c128"))
    assert first_plan_divergence(trt, plans_file(trt), graph, test_case, what="", tolerance=0.01) is None


def test_a_right_plan_leaves_what_ran_it(trt: Path) -> None:
    engine = api.load(trt, executor="emulator")
    graph = api.read_graph(trt / "rank0.ir")
    test_case = TestCase("alone", (1,), (Request((1, 2), 2),), 1)
    assert locate(engine, graph, None, test_case, 0.01) == (
        None,
        "no single operation is off by more than the tolerance",
    )
    engine.executor.name = "tensorrt-rtx"
    assert locate(engine, graph, None, test_case, 0.01) == (
        None,
        "the emulator computes every operation right: tensorrt-rtx itself differs",
    )


def test_plans_are_tried_with_a_partner_of_the_same_capacity(trt: Path) -> None:
    executor = api.load(trt, executor="emulator").executor
    assert isinstance(executor, TensorRTExecutor)
    requests = [Request((1, 2), 3), Request((3,), 3)]
    test_cases = {
        t.mode: t for t in plan_test_cases(executor.plan_sizes, requests, 3, EngineLimits(3, 64, 200), 0, 1024)
    }
    assert list(test_cases) == PLANS
    assert test_cases["decode-b3-c256"].plans == ("decode-b3-c256", "prefill-s16-c256")
    assert test_cases["decode-b3-c256"].numbers == (1, 2, 1)
    assert test_cases["prefill-s64-c128"].plans == ("prefill-s64-c128", "decode-b1-c128")
    assert test_cases["prefill-s64-c128"].numbers == (4,)
    limited = executor.limited_to(test_cases["decode-b3-c256"].plans)
    assert [plan.name for plan in limited.plans] == ["decode-b3-c256", "prefill-s16-c256"]
    assert limited.open(1, 8).batch == 1


def test_an_engine_with_plans_is_verified_as_torch_too(trt: Path) -> None:
    content = json.loads(llmc("verify", trt, *QUICK, "--json", "--executor", "torch").out)
    assert (content["holds"], content["executor"], content["plans"]) == (True, "torch", [])
    said = "its 10 TensorRT-RTX plans are not tried: torch runs it (--executor emulator does)"
    assert content["notes"] == [said]
    assert llmc("verify", trt, *QUICK, "--executor", "torch", "--plans", "default").err.count("note: ") == 0


def test_the_plans_are_inspected(trt: Path) -> None:
    facts = json.loads(llmc("inspect", trt, "--json").out)
    found = facts["tensorrt"]
    assert (found["target"], found["weights_file"]) == ("tensorrt-rtx", "rank0.safetensors")
    plans = {plan["name"]: plan for plan in found["plans"]}
    assert list(plans) == PLANS
    plan = plans["decode-b3-c256"]
    assert plan["sizes"] == {"B": 3, "S": 1, "R": 1, "C": 256}
    assert plan["layers"]["ATTENTION"] == 4
    assert plan["caches"]["cache.0.k"] == {"dtype": "HALF", "shape": [3, 4, 256, 32], "output": "layers.0.attn.k.cache"}
    assert plan["cache_bytes"] == facts["cache"]["bytes_per_token"] * 3 * 256
    assert plan["outputs"] == {"logits": {"dtype": "HALF", "shape": [3, 1, 1024]}}
    assert 0.9 * facts["weights"]["bytes"] < plan["weights"]["bytes"] <= facts["weights"]["bytes"]
    assert plan["engine_bytes"] == facts["files"][plan["engine"]]["bytes"]


def test_the_manifest_says_which_gpus_plans_were_built_for(trt: Path, tmp_path: Path) -> None:
    assert open_engine(trt).manifest.capabilities == ("8.0", "8.6", "8.9", "12.0")
    arguments = ("compile", MODELS / "opt-tiny", "-o", tmp_path / "one", "--target", "tensorrt-rtx", "-q")
    result = llmc(*arguments, "--max-seq", 32, "--max-batch", 1, "--compute-capability", "8.9,12.0")
    assert result.status == 0, result.err
    assert open_engine(tmp_path / "one").manifest.capabilities == ("8.9", "12.0")
    assert "for compute capabilities 8.9, 12.0" in " ".join(llmc("inspect", tmp_path / "one").out.split())


def test_the_executor_is_told_which_gpus_plans_were_built_for(trt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    load = TensorRTExecutor.load

    def watched(*arguments: Any, **options: Any) -> TensorRTExecutor:
        given.update(options)
        return load(*arguments, **options)

    monkeypatch.setattr(TensorRTExecutor, "load", watched)
    api.load(trt, executor="emulator")
    assert given["capabilities"] == ("8.0", "8.6", "8.9", "12.0")
