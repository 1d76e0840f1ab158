"""What a frontend is written with: `from llmc import families`.

A family of models is a function under `families.register`, which takes a `Lifting`; docs/frontends.md is the guide.
"""

from compiler.frontends.activations import ACTIVATIONS, Activation
from compiler.frontends.attention import Attention
from compiler.frontends.lifting import Lifting, divide
from compiler.frontends.modules import (
    embed,
    layer_norm,
    learned_positions,
    linear,
    mlp,
    output_head,
    projected_attention,
    rms_norm,
)
from compiler.frontends.registry import frontend as register
from compiler.frontends.rope import Rope
from compiler.frontends.step import ModelShape, StepBuilder

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Attention",
    "Lifting",
    "ModelShape",
    "Rope",
    "StepBuilder",
    "divide",
    "embed",
    "layer_norm",
    "learned_positions",
    "linear",
    "mlp",
    "output_head",
    "projected_attention",
    "register",
    "rms_norm",
]
