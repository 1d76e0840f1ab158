"""The torch executor: runs a rank's graph on any CPU or CUDA GPU."""

from runtime.torch_executor.executor import TorchExecutor

__all__ = ["TorchExecutor"]
