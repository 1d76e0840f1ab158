"""All about each kind of op: what it means, and where what belongs to it is registered, or why there is none."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args, get_origin

import runtime.executors.torch.rules  # noqa: F401 - these register llmc's own
from compiler.backend_trt.emission import RULES as TENSORRT_RULES
from compiler.backend_trt.support.declared import DEFAULT, SUPPORT
from compiler.ir.dims import Dim
from compiler.ir.evaluators.core import EVALUATOR_DECORATOR, EVALUATORS
from compiler.ir.literals import attr_text
from compiler.ir.op import OPS, OpKind, op_kind
from compiler.passes.parallel.graph_factors import SHARDING_RULES
from compiler.plugins import Place, Registry, load_installed
from runtime.executors.torch.lowering import RULE_DECORATOR, RULES

_CONSTANT = "it makes or changes a constant, which is computed when an engine is written: no step runs it"
_PER_RANK = "each rank's graph has a slice in its place (compiler.ir.mesh.rank_graph)"
_STAGES = "it is where stages are cut apart: an output of one rank's graph, an input of another's"
_SPLIT_ALREADY = "the passes that split a model write it, after layouts have been chosen"
_LINEAR_ONLY = "TensorRT runs linear caches and padded steps only, and refuses a graph whose caches are paged"
_ONE_RANK = "the table is proven by networks for one rank; where there is a rule, the default row holds"

NOT_NEEDED: Mapping[str, Mapping[str, str]] = {
    "type rule": {},
    "evaluator": {"const": "the interpreter itself reads the tensor from its file"},
    "torch rule": {
        **dict.fromkeys(("const", "random", "literal", "unpack", "decode_blocks", "group_order"), _CONSTANT),
        "shard": _PER_RANK,
        "transfer": _STAGES,
    },
    "TensorRT rule": {
        **dict.fromkeys(("const", "random", "literal", "unpack", "decode_blocks", "group_order"), _CONSTANT),
        "shard": _PER_RANK,
        "transfer": _STAGES,
        **dict.fromkeys(("paged_kv_update", "paged_attention"), _LINEAR_ONLY),
    },
    "TensorRT support": {
        **dict.fromkeys(("const", "random", "literal", "unpack", "decode_blocks", "group_order"), _CONSTANT),
        "shard": _PER_RANK,
        "transfer": _STAGES,
        **dict.fromkeys(("paged_kv_update", "paged_attention"), _LINEAR_ONLY),
        **dict.fromkeys(("all_reduce", "all_max", "all_gather"), _ONE_RANK),
    },
    "sharding rule": {
        **dict.fromkeys(("const", "random", "literal", "unpack", "decode_blocks", "group_order"), _CONSTANT),
        **dict.fromkeys(("shard", "all_reduce", "all_max", "all_gather"), _SPLIT_ALREADY),
    },
}
"""For each part, which of llmc's own ops do without it, and why."""


class _Part(NamedTuple):
    """A part of an op: where it is registered, by what, and what holds of an op that has none."""

    name: str
    registry: Registry[Any]
    register: str
    without: str


_PARTS = (
    _Part("type rule", OPS, "llmc.register_op", ""),
    _Part("evaluator", EVALUATORS, EVALUATOR_DECORATOR, "the interpreter cannot compute it"),
    _Part("torch rule", RULES, RULE_DECORATOR, "no engine can run it"),
    _Part("TensorRT rule", TENSORRT_RULES, "llmc.emits", "no TensorRT engine can be built"),
    _Part("TensorRT support", SUPPORT, "compiler.backend_trt.support.declared.declare", "the default row holds"),
    _Part("sharding rule", SHARDING_RULES, "llmc.sharding_rule", "each rank needs all of its operands"),
)


@dataclass(frozen=True)
class OpPart:
    """A part of an op, such as its evaluator.

    Attributes:
        name: what it is.
        place: where it is registered; None if there is none.
        reason: why there is none, or what follows from that.
    """

    name: str
    place: Place | None
    reason: str = ""

    def __str__(self) -> str:
        return self.place.location if self.place else f"none: {self.reason}"


@dataclass(frozen=True)
class OpFacts:
    """All about a kind of op.

    Attributes:
        kind: the kind.
        plugin: the name of the plug-in that brings it; None if it is llmc's own.
        parts: where its parts are.
    """

    kind: OpKind
    plugin: str | None
    parts: tuple[OpPart, ...]

    @property
    def summary(self) -> str:
        """The first paragraph of what it means, on one line."""
        return " ".join(self.kind.doc.partition("\n\n")[0].split())

    @property
    def operands(self) -> tuple[tuple[str, str], ...]:
        """The name of each operand, and whether it is `required`, `optional` or `repeated`."""
        found = inspect.signature(self.kind.rule).parameters.values()
        return tuple((each.name, _operand_kind(each)) for each in found if each.kind is not each.KEYWORD_ONLY)

    @property
    def attributes(self) -> tuple[tuple[str, str, str | None], ...]:
        """The name of each attribute, its type, and its default as the text form spells it; None if it has none."""
        kind = self.kind
        return tuple(
            (name, _type_text(type_), attr_text(kind.defaults[name]) if name in kind.defaults else None)
            for name, type_ in kind.attributes.items()
        )

    @property
    def call(self) -> str:
        """How a builder is asked for it, such as `gelu(x, tanh=false)`; optional operands are in brackets."""
        words = [
            *(
                {"required": name, "optional": f"[{name}]", "repeated": f"{name}..."}[how]
                for name, how in self.operands
            ),
            *(name if default is None else f"{name}={default}" for name, _, default in self.attributes),
        ]
        return f"{self.kind.name}({', '.join(words)})"

    @property
    def tensorrt_takes(self) -> str | None:
        """The element types that TensorRT takes and what else must hold; None if TensorRT has no rule for the op."""
        if self.kind.name not in TENSORRT_RULES:
            return None
        row = SUPPORT.get(self.kind.name, DEFAULT)
        return row.types_text + (f"; {row.conditions_text}" if row.conditions else "")

    def as_json(self) -> dict[str, Any]:
        """What `llmc ops --json` prints."""
        return {
            "name": self.kind.name,
            "summary": self.summary,
            "doc": self.kind.doc,
            "plugin": self.plugin,
            "operands": [
                {"name": name, "required": how == "required", "repeated": how == "repeated"}
                for name, how in self.operands
            ],
            "attributes": [
                {"name": name, "type": type_, "required": default is None, "default": default}
                for name, type_, default in self.attributes
            ],
            "tensorrt_takes": self.tensorrt_takes,
            "parts": [
                {
                    "name": part.name,
                    "file": part.place.file if part.place else None,
                    "line": part.place.line if part.place else None,
                    "reason": part.reason or None,
                }
                for part in self.parts
            ],
        }


def describe_ops() -> tuple[OpFacts, ...]:
    """All kinds of op by name, those of installed plug-ins too."""
    load_installed()
    return tuple(_facts(OPS[name]) for name in sorted(OPS))


def describe_op(name: str) -> OpFacts:
    """All about the kind of op of that name; GraphError with a suggestion if there is none."""
    return _facts(op_kind(name))


def _facts(kind: OpKind) -> OpFacts:
    plugin = OPS.plugin(kind.name)
    return OpFacts(kind, plugin.name if plugin else None, tuple(_part(kind.name, part) for part in _PARTS))


def _part(kind: str, part: _Part) -> OpPart:
    if part.registry.find(kind) is not None:
        return OpPart(part.name, part.registry.place(kind))
    reason = NOT_NEEDED[part.name].get(kind)
    return OpPart(part.name, None, reason or f"{part.without}; {part.register} registers one")


def _operand_kind(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return "repeated"
    return "required" if parameter.default is parameter.empty else "optional"


def _type_text(type_: Any) -> str:
    """A type as an attribute's declaration spells it: `int`, `DType`, `tuple[Dim, ...]`."""
    if type_ == Dim:
        return "Dim"
    if get_origin(type_) is tuple:
        return f"tuple[{', '.join('...' if item is ... else _type_text(item) for item in get_args(type_))}]"
    return str(getattr(type_, "__name__", type_))
