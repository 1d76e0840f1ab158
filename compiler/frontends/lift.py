"""Lifting: from a checkpoint to a step graph."""

from __future__ import annotations

from compiler.errors import CheckpointError, GraphError
from compiler.frontends.checkpoint import Checkpoint
from compiler.frontends.lifting import Lifting
from compiler.frontends.limits import Limits
from compiler.frontends.registry import family_of
from compiler.ir.graph import Graph
from compiler.ir.step_interface import check_step
from compiler.plugins import blamed, place_of


def lift(checkpoint: Checkpoint, *, limits: Limits | None = None) -> Graph:
    """The step graph of the checkpoint's model: `S` new tokens per row after those in the caches.

    Inputs are `token_ids i32[B,S]`, `past_len i32[B]`, `new_len i32[B]`, `logit_pos i32[B,R]`, and for each layer
    `cache.N.k` and `cache.N.v`, `[B,kv_heads,C,head_dim]`. Outputs are `logits [B,R,V]` of the rows `logit_pos`, and
    each cache's next state. Row `b` holds `new_len[b]` tokens, then padding, whose results mean nothing.

    Only headers are read; what was odd but harmless is in `checkpoint.notes` afterwards.

    Raises:
        ConfigError: if the model, or one of its variants, is not supported, or the limits do not fit it.
        CheckpointError: if the weights are damaged, or not those that the config describes.
        GraphError: if the frontend of a family makes no step.
        PluginError: if the frontend of a family that is not llmc's own raises anything else.
    """
    family = family_of(checkpoint.config)
    lifting = Lifting(family.name, checkpoint, limits or Limits())
    try:
        with blamed(family.lift, f"the frontend of {family.name!r}"):
            family.lift(lifting)
    except CheckpointError as error:
        raise lifting.explained(error) from error
    graph = lifting.graph()
    try:
        check_step(graph)
    except GraphError as error:
        raise GraphError(
            f"the frontend of {family.name!r} made no step of a model: {error.message} ({place_of(family.lift)})",
            hint=error.hint,
        ) from None
    return graph
