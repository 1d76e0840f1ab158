"""Running TensorRT engines, real or emulated."""

from runtime.executors.tensorrt.executor import TensorRTExecutor

__all__ = ["TensorRTExecutor"]
