"""What is compared: recipes that several tools have, with what each tool calls them.

Every runner reads its own settings. `passes` is llmc's pipeline; `order` says which columns GPTQ rounds first: `""` for
the first ones, `columns` for those with the largest inputs, `groups` for GPTQModel's own way, which keeps groups
together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Settings = Mapping[str, Any]

GPTQ = {"algorithm": "gptq", "group": 128, "damping": 0.01}
AWQ = {"algorithm": "awq", "bits": 4, "group": 128}
SMOOTHQUANT = {"algorithm": "smoothquant", "bits": 8, "alpha": 0.5}
FP8 = {"algorithm": "fp8", "bits": 8}


class Run(NamedTuple):
    """One tool's way to follow a recipe.

    Attributes:
        tool: the tool, whose runner is `on_TOOL.py`.
        settings: what the runner reads.
        note: how this differs from what the recipe says.
    """

    tool: str
    settings: Settings
    note: str = ""


def _gptq(bits: int) -> list[Run]:
    plain = {**GPTQ, "bits": bits, "order": ""}
    runs = [
        Run("llmc", {"passes": f"quant=gptq:bits={bits}:order=false"}),
        Run("llmcompressor", plain),
        Run("gptqmodel", plain),
        Run("gptqmodel", {**plain, "order": "groups"}, "act_group_aware, its default"),
    ]
    return runs if bits == 3 else [*runs, Run("modelopt", plain)]


def _gptq_ordered(bits: int) -> list[Run]:
    ordered = {**GPTQ, "bits": bits, "order": "columns"}
    return [
        Run("llmc", {"passes": f"quant=gptq:bits={bits}"}),
        Run("llmcompressor", ordered),
        Run("gptqmodel", ordered, "groups follow the order too"),
    ]


RECIPES: Mapping[str, list[Run]] = {
    "gptq4": _gptq(4),
    "gptq4-order": _gptq_ordered(4),
    "gptq3": _gptq(3),
    "gptq3-order": _gptq_ordered(3),
    "awq4": [
        Run("llmc", {"passes": "quant=awq"}),
        Run("llmcompressor", AWQ),
        Run("gptqmodel", AWQ),
        Run("gptqmodel", {**AWQ, "zero": True}, "zero points"),
        Run("autoawq", AWQ, "zero points"),
        Run("modelopt", {**AWQ, "method": "awq_lite"}, "awq_lite"),
        Run("modelopt", {**AWQ, "method": "awq_full"}, "awq_full"),
    ],
    "int4": [
        Run("llmc", {"passes": "quant=int4:group=128"}),
        Run("llmcompressor", {"algorithm": "int4", "bits": 4, "group": 128}),
        Run("torchao", {"bits": 4, "group": 128}),
        Run("modelopt", {"algorithm": "int4", "bits": 4, "group": 128}),
        Run("hqq", {"bits": 4, "group": 128}, "zero points"),
    ],
    "int8": [
        Run("llmc", {"passes": "quant=int8"}),
        Run("llmcompressor", {"algorithm": "int8", "bits": 8}),
        Run("torchao", {"bits": 8, "group": 0}),
        Run("modelopt", {"algorithm": "int8", "bits": 8}),
        Run("hqq", {"bits": 8, "group": 0}, "zero points"),
    ],
    "smoothquant-token": [
        Run("llmc", {"passes": "quant=smoothquant"}),
        Run("llmcompressor", {**SMOOTHQUANT, "act": "token"}),
    ],
    "smoothquant-static": [
        Run("llmc", {"passes": "quant=smoothquant:act=static"}),
        Run("llmcompressor", {**SMOOTHQUANT, "act": "static"}),
        Run("modelopt", {**SMOOTHQUANT, "act": "static"}),
    ],
    "fp8-static": [
        Run("llmc", {"passes": "quant=fp8"}),
        Run("llmcompressor", {**FP8, "act": "static", "weights": "tensor"}),
        Run("modelopt", {**FP8, "act": "static"}),
    ],
    "fp8-token": [
        Run("llmc", {"passes": "quant=fp8:act=token:weights=channel"}),
        Run("llmcompressor", {**FP8, "act": "token", "weights": "channel"}),
        Run("modelopt", {**FP8, "act": "token"}),
    ],
}

TOOLS = tuple(dict.fromkeys(run.tool for runs in RECIPES.values() for run in runs))
