"""The example checkpoints, and token ids to calibrate them with."""

from functools import cache

import torch

from compiler.passes.quant.calibration.source import CalibrationSource
from llmc.models import lift
from tests.paths import MODELS

FAMILIES = ("gptneox", "gptj", "opt", "mpt")


@cache
def model(family):
    return lift(MODELS / f"{family}-tiny")


def calibration(samples=4, length=32, **settings):
    """Random tokens: enough where only the mechanism matters."""
    ids = torch.randint(1000, (samples * length,), generator=torch.Generator().manual_seed(0)).tolist()
    return CalibrationSource(documents=[tuple(ids)], samples=samples, length=length, device="cpu", **settings)
