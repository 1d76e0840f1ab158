"""The torch executor: runs a rank's graph on any CPU or CUDA GPU."""

from runtime.executors.torch.executor import TorchExecutor

__all__ = ["TorchExecutor"]
