"""Parallelism over several ranks: `tp` splits layers, `embed` tables and heads, `pp` cuts the model into stages."""

from compiler.passes.parallel.embed import SplitEmbedding
from compiler.passes.parallel.graph_factors import OpFactors, sharding_rule
from compiler.passes.parallel.pp import PipelineParallel
from compiler.passes.parallel.tp import TensorParallel

__all__ = ["OpFactors", "PipelineParallel", "SplitEmbedding", "TensorParallel", "placement", "sharding_rule"]

placement = sharding_rule
"""The name that plug-ins written for earlier versions use."""
