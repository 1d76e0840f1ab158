"""Passes: what rewrites a graph between lifting it and writing it for a target. One file per pass, or a few."""

from __future__ import annotations

# Importing a pass's module registers it.
from compiler.options import Option
from compiler.passes.cache import CacheForm
from compiler.passes.cleanup import cleanup, cse, dce
from compiler.passes.dtype import ChangeDType
from compiler.passes.fold import fold
from compiler.passes.fuse_attention import FuseAttention
from compiler.passes.grammar import canonical, parse_pipeline, spell
from compiler.passes.merge_linears import MergeLinears, merge_linears
from compiler.passes.notes import note
from compiler.passes.parallel import PipelineParallel, SplitEmbedding, TensorParallel
from compiler.passes.pipeline import PassRun, PipelineResult, apply_pass, run_pipeline
from compiler.passes.protocol import Pass
from compiler.passes.quant import Quantize
from compiler.passes.registry import PassInfo, describe_passes, find_pass
from compiler.passes.registry import register as register_pass
from compiler.plugins import load_file as load_plugin

__all__ = [
    "CacheForm",
    "ChangeDType",
    "FuseAttention",
    "MergeLinears",
    "Option",
    "Pass",
    "PassInfo",
    "PassRun",
    "PipelineParallel",
    "PipelineResult",
    "Quantize",
    "SplitEmbedding",
    "TensorParallel",
    "apply_pass",
    "canonical",
    "cleanup",
    "cse",
    "dce",
    "describe_passes",
    "find_pass",
    "fold",
    "load_plugin",
    "merge_linears",
    "note",
    "parse_pipeline",
    "register_pass",
    "run_pipeline",
    "spell",
]
