"""Modules that one compressed-tensors checkpoint quantizes in different ways."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from compiler.ir.dtypes import DType
from tests.frontends.quantized import writers
from tests.frontends.quantized.checkpoints import neox, opt, write
from tests.frontends.quantized.test_importers import compressed_config, same, weights_of
from tests.frontends.quantized.writers import Written

EIGHT: dict[str, Any] = {"num_bits": 8, "strategy": "channel", "symmetric": True, "type": "int"}
FOUR: dict[str, Any] = {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": True, "type": "int"}
ATTENTION = [f"gpt_neox.layers.{i}.attention.{name}" for i in range(2) for name in ("query_key_value", "dense")]


def mlp_in_four_bits(weight: Tensor) -> Written:
    """The linears with 64 inputs or outputs are those of the MLP."""
    writer = writers.pack_quantized() if 64 in weight.shape else writers.pack_quantized(bits=8, group=0)
    return writer(weight)


@pytest.mark.parametrize(
    "targets",
    [
        {"Linear": EIGHT, "re:.*mlp.*": FOUR},
        {"re:.*mlp.*": FOUR, "Linear": EIGHT},
        {"re:.*layers.*": EIGHT, "re:.*dense_(h_to_4h|4h_to_h)$": FOUR},
        {"re:.*": FOUR, **dict.fromkeys(ATTENTION, EIGHT)},
    ],
    ids=["class", "class last", "patterns", "names"],
)
def test_the_most_exact_target_counts(tmp_path: Path, targets: dict[str, dict[str, Any]]) -> None:
    model = neox()
    groups = {
        f"group_{i}": {"targets": [target], "weights": weights} for i, (target, weights) in enumerate(targets.items())
    }
    write(model, mlp_in_four_bits, tmp_path, **compressed_config({}, config_groups=groups, format="pack-quantized"))
    graph = same(tmp_path, model)
    found = {(op.result.name.rpartition(".")[0].split(".")[-1], op.operands[0].type.dtype) for op in weights_of(graph)}
    assert found == {(name, DType.i8) for name in ("q", "k", "v", "out")} | {("up", DType.i4), ("down", DType.i4)}


@pytest.mark.parametrize("by", ["tensor", "channel", "block"])
def test_floats_by_any_strategy(tmp_path: Path, by: str) -> None:
    model = opt()
    more = {"block_structure": [8, 16]} if by == "block" else {}
    write(model, writers.float8(by=by), tmp_path, **compressed_config({"type": "float", "strategy": by, **more}))
    blocks = {"tensor": (32, 64), "channel": (1, 64), "block": (8, 16)}[by]
    graph = same(tmp_path, model)
    down = next(op for op in weights_of(graph) if op.result.name.endswith("layers.0.mlp.down.weight"))
    assert down.operands[1].type.shape == (32 // blocks[0], 64 // blocks[1])
