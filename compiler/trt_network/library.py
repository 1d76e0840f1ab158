"""The one place where a TensorRT package is imported."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from compiler.errors import TargetError

PACKAGES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
"""The Python module of each target."""

_INSTALL = {
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13==1.6.1.120",
    "tensorrt": "pip install tensorrt (10.15 or newer; it needs a GPU)",
}


@dataclass(frozen=True)
class Library:
    """A TensorRT package that can be imported.

    Attributes:
        target: `tensorrt-rtx` or `tensorrt`.
        trt: its Python module.
        version: its version, such as `1.6.1.120`.
    """

    target: str
    trt: ModuleType
    version: str

    @property
    def name(self) -> str:
        """The module and its version: `tensorrt_rtx 1.6.1.120`."""
        return f"{PACKAGES[self.target]} {self.version}"


@lru_cache
def load_library(target: str) -> Library:
    """The package that serves a target.

    Raises:
        TargetError: if it is not installed, or its libraries cannot be loaded.
    """
    module = PACKAGES[target]
    # TensorRT-RTX multiplies float32 with the 10 bits of TF32, whatever its builder is told, unless this is set: both
    # where a plan is built and where it runs.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    try:
        trt = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise TargetError(
            f"the target {target} needs the Python package {error.name}, which is not installed",
            hint=f"{_INSTALL[target]}; or build for torch: --target torch",
        ) from None
    except (ImportError, OSError) as error:
        raise TargetError(
            f"the Python package {module} is installed but cannot be loaded: {error}",
            hint=f"install it anew: {_INSTALL[target]}",
        ) from None
    return Library(target, trt, str(trt.__version__))
