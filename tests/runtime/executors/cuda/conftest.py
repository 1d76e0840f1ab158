"""What tests of the kernels share."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton (pip install llmc[cuda])")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A GPU; without one, the CPU, on which Triton interprets kernels."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
