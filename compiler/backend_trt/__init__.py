"""The TensorRT targets: IR ops to TensorRT layers, and real engines, built without a GPU."""

from compiler.backend_trt.build import build_plans
from compiler.backend_trt.checks import check_plans
from compiler.backend_trt.emission import Emission, emits
from compiler.backend_trt.options import BuildOptions
from compiler.backend_trt.support.capability import able

__all__ = ["BuildOptions", "Emission", "able", "build_plans", "check_plans", "emits"]
