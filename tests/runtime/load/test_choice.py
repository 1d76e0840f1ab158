"""Which executor runs an engine, by what it was built for and what the machine has."""

from dataclasses import replace
from functools import cache
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import llmc
from compiler.errors import EngineError, TargetError
from compiler.ir.printer import print_graph
from compiler.trt_network.plans import Plans
from runtime.engine_dir.engine_folder import EngineFolder
from runtime.executors import kinds
from runtime.executors.cpu import build
from runtime.executors.kind import RankToLoad, find_executor
from runtime.load.choice import ExecutorChoice, choose, rivals
from runtime.load.loading import load_engine
from runtime.load.ranks import _plan
from tests.paths import MODELS
from tests.runtime.engines import MANIFEST, write_engine


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Says which Python packages are installed, and whether there are a GPU and a compiler; at first all of it."""

    def has(*packages, gpu=True, capability=(9, 0), compiler=True):
        monkeypatch.setattr(build, "why_no_library", lambda path: "" if compiler else "there is no compiler")
        monkeypatch.setattr(kinds, "find_spec", lambda name: ModuleSpec(name, None) if name in packages else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    has("tensorrt", "tensorrt_rtx", "triton")
    return has


def folder(tmp_path, *targets):
    files = {"graph": "rank0.ir", "plans": "plans.json"}
    if not (tmp_path / "rank0.ir").exists():
        write_graph(tmp_path, "fuse-attention")
    Plans("rank0.safetensors", ()).write(tmp_path / files["plans"])
    return EngineFolder(tmp_path, replace(MANIFEST, targets=dict.fromkeys(targets, (files,))))


def automatic(tmp_path, *targets, device="auto"):
    return choose(folder(tmp_path, *targets), "auto", device)


def test_auto_takes_tensorrt_where_it_runs_and_the_graph_where_it_does_not(tmp_path, machine) -> None:
    both = ("torch", "tensorrt-rtx")
    machine("tensorrt", "tensorrt_rtx")
    assert automatic(tmp_path, *both) == ExecutorChoice("tensorrt", "tensorrt-rtx")
    assert automatic(tmp_path, *both, device="cuda:1") == ExecutorChoice("tensorrt", "tensorrt-rtx")
    assert automatic(tmp_path, *both, device="cpu") == ExecutorChoice("cpu", "torch")
    assert automatic(tmp_path, "torch").executor == "torch"
    machine("tensorrt_rtx", gpu=False)
    assert automatic(tmp_path, *both) == ExecutorChoice("cpu", "torch")
    machine("tensorrt", gpu=True)
    assert automatic(tmp_path, *both).executor == "torch"


@cache
def graph_text(passes: str) -> str:
    return print_graph(llmc.optimize(llmc.lift(MODELS / "gptj-tiny"), passes).graph)


def write_graph(tmp_path, passes: str) -> None:
    (tmp_path / "rank0.ir").write_text(graph_text(passes))


def test_auto_leaves_what_cannot_be_paged_to_torch(tmp_path) -> None:
    write_graph(tmp_path, "cleanup")
    for device in ("auto", "cpu"):
        choice = automatic(tmp_path, "torch", device=device)
        assert choice.executor == "torch" and "caches cannot be paged for matmul %layers.0.attn.scores" in choice.note
    write_graph(tmp_path, "fuse-attention,cache=paged:block=16")
    assert automatic(tmp_path, "torch") == ExecutorChoice("cuda", "torch")


def test_auto_takes_the_fused_kernels_for_what_torch_would_run_on_a_gpu(tmp_path, machine) -> None:
    write_graph(tmp_path, "fuse-attention")
    assert automatic(tmp_path, "torch") == ExecutorChoice("cuda", "torch")
    assert automatic(tmp_path, "torch", "tensorrt-rtx").executor == "tensorrt"
    assert automatic(tmp_path, "torch", device="cuda:1") == ExecutorChoice("cuda", "torch")
    assert automatic(tmp_path, "torch", device="cpu") == ExecutorChoice("cpu", "torch")
    machine("triton", gpu=False)
    assert automatic(tmp_path, "torch") == ExecutorChoice("cpu", "torch")
    machine(gpu=True)
    assert automatic(tmp_path, "torch").note.endswith("Triton's kernels: the Python package triton is not installed")
    machine("triton", capability=(7, 5))
    choice = automatic(tmp_path, "torch")
    assert choice.executor == "torch" and choice.note.endswith("compute capability 8.0 and newer, and this GPU has 7.5")


def test_without_a_compiler_auto_takes_torch_and_says_so(tmp_path, machine) -> None:
    machine(gpu=False, compiler=False)
    choice = automatic(tmp_path, "torch")
    assert choice.executor == "torch"
    assert choice.note.endswith("runs on torch, which is slower than the CPU kernels: there is no compiler")


def test_only_plans_and_fused_kernels_that_both_run_here_are_measured(tmp_path, machine) -> None:
    def compared(*targets, device="auto", paged=False):
        engine = folder(tmp_path, *targets)
        return [each.executor for each in rivals(engine, choose(engine, "auto", device), device, paged=paged)]

    write_graph(tmp_path, "fuse-attention")
    assert compared("torch", "tensorrt-rtx") == ["tensorrt", "cuda"]
    assert compared("torch", "tensorrt-rtx", paged=True) == ["cuda"]
    assert compared("torch") == ["cuda"]
    assert compared("torch", "tensorrt-rtx", device="cpu") == ["cpu"]
    write_graph(tmp_path, "cleanup")
    assert compared("torch", "tensorrt-rtx") == ["tensorrt"]
    machine("tensorrt_rtx")
    assert compared("torch", "tensorrt-rtx") == ["tensorrt"]


def test_auto_says_what_keeps_torch_from_using_a_gpu(tmp_path, machine, monkeypatch) -> None:
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")

    machine("triton", gpu=False)
    monkeypatch.setattr(torch.cuda, "init", init)
    choice = automatic(tmp_path, "torch")
    assert choice.executor == "cpu"
    assert "runs on the CPU, because torch can use no GPU: The NVIDIA driver on your system is" in choice.note
    assert choice.note.endswith("is too old (found version 11040)")
    assert automatic(tmp_path, "torch", device="cpu").note == ""


def test_ranks_say_why_they_run_on_the_cpu_and_why_there_is_no_gpu(tmp_path, machine, monkeypatch) -> None:
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")

    machine("triton", gpu=False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    world: Any = SimpleNamespace(local_rank=0, size=2)
    plan = _plan(folder(tmp_path, "torch"), world, "auto", "auto", emulate=False)
    assert (plan.device, plan.choice.executor) == ("cpu", "cpu")
    assert plan.choice.note.endswith("is too old (found version 11040)")
    with pytest.raises(TargetError, match="no CUDA GPU that torch can use: The NVIDIA driver on your system"):
        _plan(folder(tmp_path, "torch"), world, "cuda", "auto", emulate=False)
    assert _plan(folder(tmp_path, "torch"), world, "cpu", "auto", emulate=False).choice.note == ""


def test_what_the_executor_cuda_lacks_is_said_before_anything_is_read(tmp_path, machine, monkeypatch) -> None:
    rank = RankToLoad(folder(tmp_path, "torch"), "torch")
    machine()
    with pytest.raises(TargetError, match="needs the Python package triton, which is not installed") as raised:
        find_executor("cuda").load(rank)
    assert 'pip install "llmc[cuda]"' in str(raised.value.hint)
    machine("triton", capability=(7, 5))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TargetError, match=r"of compute capability 8\.0 and newer, and cuda has 7\.5") as raised:
        find_executor("cuda").load(rank)
    assert raised.value.hint == "use --executor torch"
    with pytest.raises(TargetError, match=r"there is no cuda:1; torch sees 1 GPU$"):
        find_executor("cuda").load(replace(rank, device="cuda:1"))


def test_plans_can_be_emulated_where_nothing_runs_them(tmp_path, machine) -> None:
    both = folder(tmp_path, "torch", "tensorrt-rtx")

    def emulated(executor="auto", device="auto"):
        return choose(both, executor, device, emulate=True).executor

    assert emulated() == "tensorrt"
    assert emulated(device="cpu") == "emulator"
    machine("tensorrt_rtx", gpu=False)
    assert emulated() == "emulator"
    assert emulated("torch") == "torch"
    machine(gpu=True)  # a GPU, and no package that runs the plans
    assert choose(both, "auto", "auto", emulate=True) == ExecutorChoice("emulator", "tensorrt-rtx")
    assert emulated(device="cuda") == "torch"
    assert choose(folder(tmp_path, "torch"), "auto", "auto", emulate=True).executor == "torch"


def test_auto_says_so_if_only_the_package_keeps_it_from_tensorrt(tmp_path, machine) -> None:
    machine(gpu=True)
    choice = automatic(tmp_path, "torch", "tensorrt")
    assert (choice.executor, choice.target) == ("torch", "torch")
    assert choice.note.endswith("slower than TensorRT: the Python package tensorrt is not installed")
    assert automatic(tmp_path, "torch", "tensorrt", device="cpu").note == ""


def test_the_emulator_runs_only_what_names_it(tmp_path, machine) -> None:
    machine("tensorrt_rtx", gpu=False)
    assert choose(folder(tmp_path, "torch", "tensorrt-rtx"), "emulator", "auto") == ExecutorChoice(
        "emulator", "tensorrt-rtx"
    )
    with pytest.raises(EngineError, match="no files that anything here runs; it was built for: tensorrt-rtx"):
        automatic(tmp_path, "tensorrt-rtx")


def test_of_two_tensorrt_targets_the_one_whose_package_is_installed_runs(tmp_path, machine) -> None:
    for package, target in (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")):
        machine(package)
        assert choose(folder(tmp_path, "tensorrt", "tensorrt-rtx"), "tensorrt", "auto").target == target
    machine()
    assert choose(folder(tmp_path, "tensorrt"), "emulator", "auto").target == "tensorrt"


@pytest.mark.parametrize("executor", ["torch", "interpreter"])
def test_torch_and_the_interpreter_run_the_graph_of_every_engine(tmp_path, executor) -> None:
    assert choose(folder(tmp_path, "tensorrt-rtx", "torch"), executor, "auto") == ExecutorChoice(executor, "torch")
    without = folder(tmp_path, "tensorrt-rtx")
    with pytest.raises(
        EngineError, match=f"has no files that {executor} runs; it was built for: tensorrt-rtx"
    ) as raised:
        choose(without, executor, "auto")
    assert "--target torch" in str(raised.value.hint)


@pytest.mark.parametrize("executor", ["tensorrt", "emulator"])
def test_an_engine_without_tensorrt_says_what_it_was_built_for(tmp_path, executor) -> None:
    write_engine(tmp_path / "engine")
    with pytest.raises(EngineError, match=f"has no files that {executor} runs; it was built for: torch") as raised:
        load_engine(tmp_path / "engine", executor=executor)
    assert "--target tensorrt-rtx" in str(raised.value.hint)


def test_an_unknown_executor(tmp_path) -> None:
    with pytest.raises(
        TargetError, match="no executor 'onnx'; there are: auto, tensorrt, cuda, cpu, torch, emulator, interp"
    ):
        load_engine(tmp_path, executor="onnx")


@pytest.mark.parametrize("threads", ["2", 1.5, True])
def test_a_number_of_threads_is_an_integer(tmp_path, threads) -> None:
    with pytest.raises(TargetError, match=f"the number of threads is {threads!r}; it must be an integer"):
        load_engine(tmp_path, threads=threads)
