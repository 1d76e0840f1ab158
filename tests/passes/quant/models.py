"""The example checkpoints, and token ids to calibrate them with."""

from functools import cache
from pathlib import Path

import torch

from compiler.passes.quant.calibration import CalibrationSource
from llmc.models import lift

EXAMPLES = Path(__file__).parents[3] / "examples" / "models"
FAMILIES = ("gptneox", "gptj", "opt", "mpt")


@cache
def model(family):
    return lift(EXAMPLES / f"{family}-tiny")


def calibration(samples=4, length=32, **settings):
    """Random tokens: enough where only the mechanism matters."""
    ids = torch.randint(1000, (samples * length,), generator=torch.Generator().manual_seed(0)).tolist()
    return CalibrationSource(documents=[tuple(ids)], samples=samples, length=length, device="cpu", **settings)
