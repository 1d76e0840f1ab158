"""Running TensorRT engines, real or emulated."""

from runtime.tensorrt_executor.executor import TensorRTExecutor

__all__ = ["TensorRTExecutor"]
