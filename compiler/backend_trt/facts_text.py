"""The facts about execution plans as text, for `llmc inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compiler.errors import EngineError
from compiler.ir.step import StepDim
from compiler.sizes import bytes_text
from compiler.suggest import did_you_mean

Facts = Mapping[str, Any]


def chosen_plan(plans: Sequence[Facts], name: str | None) -> Facts | None:
    """The plan of that name; without one the first that runs one token a row, or else the first; None if there is none.

    Raises:
        EngineError: naming those there are, if there is none of that name.
    """
    if name is None:
        return next((plan for plan in plans if plan["sizes"].get(StepDim.LENGTH) == 1), next(iter(plans), None))
    names = [plan["name"] for plan in plans]
    if name not in names:
        raise EngineError(
            f"there is no plan {name!r}{did_you_mean(name, names)}",
            hint=f"there are: {', '.join(names)}" if names else "only TensorRT engines have plans: leave out --plan",
        )
    return plans[names.index(name)]


def plan_rows(facts: Facts, chosen: Facts) -> list[tuple[str, str]]:
    """The rows of the table: a line for each plan, then what one of them consists of."""
    plans, capabilities = facts["plans"], ", ".join(facts["capabilities"])
    weights = f"{facts['weights_file']} ({bytes_text(facts['weights_bytes'])})"
    built = f"{facts['target']}, built with {facts['package']}"
    return [
        ("tensorrt", built + (f" for compute capabilities {capabilities}" if capabilities else "")),
        ("plans", f"{len(plans)}, {bytes_text(facts['engine_bytes'])} together; all read {weights}"),
        *((f"  {plan['name']}", _plan(plan)) for plan in plans),
        *_plan_rows(chosen),
    ]


def _plan(plan: Facts) -> str:
    engine, cache, weights = (
        bytes_text(size) for size in (plan["engine_bytes"], plan["cache_bytes"], plan["weights"]["bytes"])
    )
    sizes = " ".join(f"{name}={'any' if size < 0 else size}" for name, size in plan["sizes"].items())
    return (
        f"{sizes}; {sum(plan['layers'].values())} layers; engine file {engine}; "
        f"{plan['weights']['inputs']} weights ({weights}); caches {cache}"
    )


def _plan_rows(plan: Facts) -> list[tuple[str, str]]:
    def of_type(count: Mapping[str, int]) -> str:
        parts = ((count["weight_bytes"], "weights"), (count["constant_bytes"], "constants"))
        sizes = "".join(f", {bytes_text(size)} of {what}" for size, what in parts if size)
        return f"{count['tensors']} tensors{sizes}"

    caches = ((f"{name} (written over by {c['output']})", c) for name, c in plan["caches"].items())
    return [
        ("layers", f"of {plan['name']}: " + ", ".join(f"{kind} {count}" for kind, count in plan["layers"].items())),
        ("precisions", "; ".join(f"{dtype} {of_type(count)}" for dtype, count in plan["precisions"].items())),
        ("step inputs", _alike((name, _tensor(tensor)) for name, tensor in plan["inputs"].items())),
        ("caches", _alike((name, _tensor(cache)) for name, cache in caches) or "none"),
        ("step outputs", _alike((name, _tensor(tensor)) for name, tensor in plan["outputs"].items())),
        *(
            (f"profile {profile['name']}", _alike((name, _range(r)) for name, r in profile["shapes"].items()))
            for profile in plan["profiles"]
        ),
    ]


def layer_lines(layers: Iterable[Facts]) -> str:
    """A line per layer: its name and kind, what it reads and makes, and the module it comes from."""
    return "\n".join(map(_layer, layers))


def _layer(layer: Facts) -> str:
    inputs = ", ".join("-" if tensor is None else _named(tensor) for tensor in layer["inputs"])
    outputs = ", ".join(map(_named, layer["outputs"]))
    module = (layer["origin"] or {}).get("module")
    head = f"{layer['name']}  {layer['kind']}  "
    return head + (f"{inputs} -> " if inputs else "-> ") + outputs + (f"  from {module}" if module else "")


def _named(tensor: Facts) -> str:
    return f"{tensor['name']} {_tensor(tensor)}"


def _tensor(tensor: Facts) -> str:
    return f"{tensor['dtype']}{_shape(tensor['shape'])}"


def _range(shapes: Mapping[str, list[int]]) -> str:
    """`[1,1]..[8,1]..[8,1]`: least, usual, largest; one shape if they are the same."""
    distinct = {_shape(shape) for shape in shapes.values()}
    return distinct.pop() if len(distinct) == 1 else "..".join(_shape(shapes[end]) for end in ("min", "opt", "max"))


def _shape(shape: Iterable[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _alike(items: Iterable[tuple[str, str]]) -> str:
    """`name text` of each; names with the same text together, the first of more than two standing for all."""
    groups: dict[str, list[str]] = {}
    for name, text in items:
        groups.setdefault(text, []).append(name)
    return ", ".join(f"{_names(names)} {text}" for text, names in groups.items())


def _names(names: list[str]) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more of"
