"""Tensors that tools leave in a checkpoint and that no model needs: caches of positions, masks, counters."""

from __future__ import annotations

import re

# The last part of the name, whatever the module. Those that follow from a config are compared with it where a frontend
# says what they must be: see `Tensors.derived`.
_NAMES = r"""
    (original_)?inv_freq | (cos|sin)_cached | cached_(cos|sin) | cos_sin_cache | (max_)?seq_len_cached
    | embed_positions | position_ids | _float_tensor | token_type_ids
    | masked_bias | (causal|attn|attention)_mask | attn_bias | alibi(_bias|_slopes)?
    | gptq_(bits|groupsize)
    | _extra_state | version | n_averaged | num_batches_tracked | total_(ops|params)
"""
_LEFTOVER = re.compile(rf"(.*\.)?({_NAMES})", re.VERBOSE)


def is_leftover(tensor: str) -> bool:
    """Whether a tensor of that name is a buffer that no model needs."""
    return _LEFTOVER.fullmatch(tensor) is not None
