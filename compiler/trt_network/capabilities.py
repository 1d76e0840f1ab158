"""What differs between TensorRT packages and GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """What a package can do.

    Attributes:
        gpus: the compute capabilities that its maker lists, with the GPUs' names.
        measured: compute capabilities that are not listed, but on which engines of ours ran, with the versions.
        swept: the version that the table of supported ops was measured on; empty where it is taken to be the same.
    """

    gpus: Mapping[str, str]
    measured: Mapping[str, str]
    swept: str = ""

    def hint(self, capability: str) -> str:
        """What to do where a GPU of that compute capability refuses an engine."""
        if capability in self.measured:
            return f"engines have run on {self.measured[capability]}; install such a version and compile with it"
        if capability in self.gpus:
            return f"compile the engine for this GPU: --compute-capability {capability}"
        return "no version is known to run on this GPU: use --executor torch"

    def runs_on(self, capability: str) -> bool:
        """Whether engines run on GPUs of that compute capability, such as `8.9`."""
        return capability in self.gpus or capability in self.measured


CAPABILITIES: Mapping[str, Package] = {
    "tensorrt-rtx": Package(
        gpus={"7.5": "Turing", "8.0": "A100", "8.6": "RTX 30", "8.9": "RTX 40, L4, L40", "12.0": "RTX 50"},
        measured={"9.0": "H100 and H200, with TensorRT-RTX 1.4.0 and 1.6.1; 1.7.1 refuses them"},
        swept="TensorRT-RTX 1.6.1",
    ),
    "tensorrt": Package(
        gpus={"7.5": "T4", "8.0": "A100", "8.6": "RTX 30, A10", "8.9": "RTX 40, L4", "9.0": "H100", "12.0": "RTX 50"},
        measured={},
    ),
}
