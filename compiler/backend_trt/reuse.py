"""Plans that were built before: the same network, built in the same way by the same package, is the same plan."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor

from compiler.backend_trt.options import BuildOptions
from compiler.cache import FileCache
from compiler.trt_network.record import NetworkRecord

_LIMIT = 2 << 30


def plan_cache() -> FileCache:
    """Where built plans are kept."""
    return FileCache("plans", _LIMIT)


def plan_key(record: NetworkRecord, constants: Mapping[str, Tensor], options: BuildOptions) -> str:
    """What a plan depends on, as a digest: the network with its constants, the package, the options, the environment.

    Weights that are inputs of the network are not part of it: models of one architecture share their plans.
    """
    # Numbers of workers, and which other plans there are, change nothing about a plan.
    plain = replace(options, workers=None, batch_sizes=(), prompt_sizes=(), capacities=())
    network = asdict(replace(record, constants={}, weights={}))
    tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE")  # a plan runs where this is as it was when it was built
    digest = hashlib.sha256(json.dumps([network, asdict(plain), tf32], sort_keys=True).encode())
    for name in sorted(constants):
        digest.update(f"{name} {constants[name].dtype} {list(constants[name].shape)}".encode())
        digest.update(constants[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
