"""Parallelism over several ranks: `tp` splits layers, `embed` tables and heads, `pp` cuts the model into stages."""

from compiler.passes.parallel.embed import SplitEmbedding
from compiler.passes.parallel.layout import Site, placement
from compiler.passes.parallel.pp import PipelineParallel
from compiler.passes.parallel.tp import TensorParallel

__all__ = ["PipelineParallel", "Site", "SplitEmbedding", "TensorParallel", "placement"]
