"""llmc's own kinds of executor. What they run is imported when they load it: torch takes a second."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from compiler.errors import TargetError
from compiler.targets import Fit
from compiler.trt_network.library import PACKAGES
from runtime.executors.kind import AUTO, ExecutorKind, Explained, RankToLoad, register_executor

if TYPE_CHECKING:
    from runtime.engine_dir.engine_folder import EngineFolder
    from runtime.executors.interface import RankExecutor


class _RunsPlans(ExecutorKind):
    """What the executors of TensorRT engines share."""

    targets = tuple(PACKAGES)

    def target_of(self, built: Collection[str]) -> str | None:
        """Of the targets that were built, one whose package is installed, if there is one."""
        ours = [target for target in self.targets if target in built]
        return next(filter(_installed, ours), ours[0] if ours else None)

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load the execution plans of a rank."""
        from runtime.executors.tensorrt.executor import TensorRTExecutor

        manifest = rank.folder.manifest
        options: Any = {
            "device": rank.device,
            "emulate": self.emulates,
            "target": rank.target,
            "digests": {name: entry.sha256 for name, entry in manifest.files.items()},
            "capabilities": manifest.capabilities,
            "group": rank.group,
            "launchers": {} if self.emulates else _plugin_launchers(),
        }
        return TensorRTExecutor.load(rank.folder.path, rank.folder.rank(rank.target, rank.rank), **options)


@register_executor
class TensorRTKind(_RunsPlans):
    """TensorRT engines on a GPU."""

    name = "tensorrt"
    summary = "TensorRT engines, on a GPU"
    automatic = True
    timed = True

    def fit(self, target: str, device: str) -> Fit:
        """A GPU and the package must be there; if only the package is missing, which is much faster, that is noted."""
        if device.startswith("cpu") or not _sees_gpu():
            return _without_gpu(device)
        if _installed(target):
            return Fit(True)
        return Fit(
            False, f"torch, which is slower than TensorRT: the Python package {PACKAGES[target]} is not installed"
        )

    def lack(self, folder: EngineFolder, target: str) -> str:
        """Plans may call plug-ins, whose kernels are Triton's."""
        from compiler.trt_network.plans import read_plans

        plugins = read_plans(folder.path / folder.rank(target)["plans"]).plugins
        if not plugins or find_spec("triton") is not None:
            return ""
        return (
            f"torch, which is slower than TensorRT: its plans call the plug-ins {', '.join(plugins)}, and the Python "
            "package triton, which has their kernels, is not installed"
        )

    def uses_gpu(self, device: str) -> bool:
        """TensorRT runs nowhere else."""
        return True


@register_executor
class CudaKind(ExecutorKind):
    """The graph that every engine stores, by few kernels a layer."""

    name = "cuda"
    summary = "any engine, on a CUDA GPU, by kernels of Triton"
    targets = ("torch",)
    automatic = True
    timed = True
    pages = True

    def fit(self, target: str, device: str) -> Fit:
        """A GPU that Triton serves, and Triton, must be there; if only Triton is missing, that is noted."""
        if device.startswith("cpu") or not _sees_gpu():
            return _without_gpu(device)
        if find_spec("triton") is None:
            return Fit(
                False, "torch, which is slower than Triton's kernels: the Python package triton is not installed"
            )
        if (found := _capability(device)) < _OLDEST:
            return Fit(
                False,
                f"torch, which is slower than Triton's kernels: these are for compute capability {_spelled(_OLDEST)} "
                f"and newer, and this GPU has {_spelled(found)}",
            )
        return Fit(True)

    def lack(self, folder: EngineFolder, target: str) -> str:
        """Its caches are paged, which not every graph's can be."""
        why = _why_not_paged(folder, target)
        return why and f"torch, which is slower than Triton's kernels: {why}"

    def explain(self, folder: EngineFolder, target: str) -> Explained:
        """Which ops run together; it takes Triton, but no GPU."""
        _require_triton()
        from compiler.ir.files import read_graph
        from runtime.executors.cuda.executor import paged_graph
        from runtime.executors.cuda.explanation import explain

        return explain(paged_graph(read_graph(folder.path / folder.rank(target)["graph"])))

    def uses_gpu(self, device: str) -> bool:
        """It runs nowhere else."""
        return True

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load the graph and the weights of a rank."""
        _require_triton()
        from runtime.executors.cuda.executor import CudaExecutor
        from runtime.executors.torch.device import find_device

        where = find_device("cuda" if rank.device == AUTO else rank.device)
        if where.type == "cuda" and (found := _capability(str(where))) < _OLDEST:
            raise TargetError(
                f"the executor cuda is for GPUs of compute capability {_spelled(_OLDEST)} and newer, and {where} has "
                f"{_spelled(found)}",
                hint="use --executor torch",
            )
        files = rank.folder.rank(rank.target, rank.rank)
        return CudaExecutor.load(rank.folder.path / files["graph"], device=rank.device, group=rank.group)


@register_executor
class CpuKind(ExecutorKind):
    """The graph that every engine stores, by own kernels for CPUs: a step in one call."""

    name = "cpu"
    summary = "any engine, on a CPU, by kernels of C++ that are built once"
    targets = ("torch",)
    automatic = True
    cpu_only = True
    pages = True

    def fit(self, target: str, device: str) -> Fit:
        """No GPU is to be used; if there is neither a library nor a compiler to build it with, that is noted."""
        if device.startswith("cuda") or (device == AUTO and _sees_gpu()):
            return Fit(False)
        from runtime.executors.cpu.build import built_path, why_no_library

        why = why_no_library(built_path())
        return Fit(not why, why and f"torch, which is slower than the CPU kernels: {why}")

    def lack(self, folder: EngineFolder, target: str) -> str:
        """Its caches are paged, which not every graph's can be."""
        why = _why_not_paged(folder, target)
        return why and f"torch, which is slower than the CPU kernels: {why}"

    def explain(self, folder: EngineFolder, target: str) -> Explained:
        """Which ops run in one call; it takes no library."""
        from compiler.ir.files import read_graph
        from runtime.executors.cpu.executor import paged_graph
        from runtime.executors.cpu.explanation import explain

        return explain(paged_graph(read_graph(folder.path / folder.rank(target)["graph"])))

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load the graph and the weights of a rank."""
        from runtime.executors.cpu.build import built_path, is_built, why_no_library
        from runtime.executors.cpu.executor import CpuExecutor, threads_asked, usable_threads

        path = built_path()
        if not is_built(path) and not why_no_library(path):
            rank.tell(f"building the CPU kernels for {path.name}, once: this takes up to a minute")
        asked, threads = threads_asked(), usable_threads()
        if threads < asked:
            rank.tell(f"{threads} of {asked} threads compute: this process may use no more CPUs")
        files = rank.folder.rank(rank.target, rank.rank)
        return CpuExecutor.load(rank.folder.path / files["graph"], group=rank.group)


@register_executor
class TorchKind(ExecutorKind):
    """The graph that every engine stores, by torch."""

    name = "torch"
    summary = "any engine, on a CPU or a CUDA GPU"
    targets = ("torch",)
    automatic = True
    pages = True

    def uses_gpu(self, device: str) -> bool:
        """`auto` takes a GPU where there is one."""
        return device.startswith("cuda") or (device == AUTO and _sees_gpu())

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load the graph and the weights of a rank."""
        from compiler.ir.files import read_graph
        from runtime.executors.paged import block_to_page
        from runtime.executors.torch.executor import TorchExecutor

        files = rank.folder.rank(rank.target, rank.rank)
        rows = min(rank.batch, rank.folder.manifest.limits.max_batch) if rank.batch else None
        graph = read_graph(rank.folder.path / files["graph"])
        return TorchExecutor(
            graph, device=rank.device, rows=rows, group=rank.group, block=block_to_page(graph, rank.paged)
        )


@register_executor
class EmulatorKind(_RunsPlans):
    """TensorRT engines on a CPU, by evaluating their networks."""

    name = "emulator"
    summary = "TensorRT engines, on the CPU, slowly"
    emulates = True
    cpu_only = True


@register_executor
class InterpreterKind(ExecutorKind):
    """The graph that every engine stores, by the interpreter, which defines what it means."""

    name = "interpreter"
    summary = "any engine, on the CPU, slowly: the reference"
    targets = ("torch",)
    cpu_only = True
    pages = True

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load the graph and the weights of a rank."""
        from compiler.ir.files import read_graph
        from runtime.executors.interpreter import InterpreterExecutor
        from runtime.executors.paged import block_to_page

        graph = read_graph(rank.folder.path / rank.folder.rank(rank.target, rank.rank)["graph"])
        return InterpreterExecutor(graph, group=rank.group, block=block_to_page(graph, rank.paged))


def _why_not_paged(folder: EngineFolder, target: str) -> str:
    """Why the caches of an engine cannot be paged, naming the op; empty if they can."""
    from compiler.errors import GraphError
    from compiler.ir.files import read_graph
    from compiler.ir.paged import paged
    from compiler.ir.paged_layout import CACHE_BLOCK

    graph = read_graph(folder.path / folder.rank(target)["graph"])
    try:
        if CACHE_BLOCK not in graph.facts:
            paged(graph)
    except GraphError as error:
        return str(error)
    return ""


def _plugin_launchers() -> Any:
    """What launches the plug-ins of TensorRT plans; nothing without Triton."""
    if find_spec("triton") is None:
        return {}
    from runtime.executors.cuda.plugin_kernels import LAUNCHERS

    return LAUNCHERS


_OLDEST = (8, 0)
"""The least compute capability of GPUs that the kernels of Triton are for."""


def _require_triton() -> None:
    """TargetError if Triton is not installed."""
    if find_spec("triton") is None:
        raise TargetError(
            "the executor cuda needs the Python package triton, which is not installed",
            hint='pip install "llmc[cuda]", or use --executor torch',
        )


def _capability(device: str) -> tuple[int, int]:
    import torch

    major, minor = torch.cuda.get_device_capability(None if device == AUTO else device)
    return major, minor


def _spelled(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _without_gpu(device: str) -> Fit:
    """What runs on GPUs does not fit; if something odd keeps torch from using one, that is noted."""
    from runtime.executors.rank_checks import why_no_gpu

    odd = "" if device.startswith("cpu") else why_no_gpu(odd=True)
    return Fit(False, odd and f"the CPU, because torch can use no GPU: {odd}")


def _installed(target: str) -> bool:
    return find_spec(PACKAGES[target]) is not None


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
