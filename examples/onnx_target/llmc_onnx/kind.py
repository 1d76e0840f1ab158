"""The kind of executor that runs the models."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from compiler.errors import TargetError
from compiler.targets import Fit
from runtime.executors.kind import ExecutorKind, RankToLoad, register_executor

if TYPE_CHECKING:
    from runtime.executors.interface import RankExecutor

_INSTALL = "pip install onnxruntime"


@register_executor
class OnnxKind(ExecutorKind):
    """Runs ONNX models with onnxruntime."""

    name = "onnx"
    summary = "ONNX models, by onnxruntime on the CPU"
    targets = ("onnx",)
    automatic = True
    cpu_only = True

    def fit(self, target: str, device: str) -> Fit:
        """Wherever onnxruntime is installed and no GPU is there to be used."""
        if find_spec("onnxruntime") is None:
            return Fit(False, f"torch: onnxruntime, which runs its ONNX models, is not installed ({_INSTALL})")
        if device.startswith("cuda"):
            return Fit(False)
        import torch

        if device != "cpu" and torch.cuda.is_available():
            return Fit(False, "torch, on the GPU: its ONNX models run on the CPU (--executor onnx)")
        return Fit(True)

    def load(self, rank: RankToLoad) -> RankExecutor:
        """Load the model of a rank."""
        if find_spec("onnxruntime") is None:
            raise TargetError("the Python package onnxruntime is not installed", hint=_INSTALL)
        if rank.device.startswith("cuda"):
            raise TargetError("the executor onnx runs on the CPU", hint="leave --device out")
        from llmc_onnx.executor import OnnxExecutor

        return OnnxExecutor.load(rank.folder.path, rank.folder.rank(rank.target, rank.rank))
