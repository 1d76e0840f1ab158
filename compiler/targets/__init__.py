"""Targets: the forms that engines are built in, each a class under a name, which plug-ins can add."""

from compiler.targets.registry import (
    TARGETS,
    TargetInfo,
    always_targets,
    automatic_target,
    describe_targets,
    find_target,
    read_targets,
    register_target,
    target_name,
    with_options,
)
from compiler.targets.target import Fit, Target

__all__ = [
    "TARGETS",
    "Fit",
    "Target",
    "TargetInfo",
    "always_targets",
    "automatic_target",
    "describe_targets",
    "find_target",
    "read_targets",
    "register_target",
    "target_name",
    "with_options",
]
