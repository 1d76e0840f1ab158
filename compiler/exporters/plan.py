"""What an export will write: the tensors of a graph in a format, told before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from compiler.errors import ExportError
from compiler.exporters.assembly import Assembly
from compiler.exporters.correspondence import correspond
from compiler.exporters.formats import FORMATS, Format
from compiler.exporters.formats.format import as_stored
from compiler.exporters.model import ExportedModel, ExportedTensor
from compiler.exporters.template import DTYPE_KEYS, QUANTIZED_KEYS
from compiler.ir.dtypes import COMPUTE_DTYPES, DType
from compiler.ir.graph import Graph
from compiler.suggest import did_you_mean


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write.

    Attributes:
        tensors: the tensors, in the order of the model.
        graph: a graph of constants, whose outputs they are made from.
        config: the content of `config.json`.
        quantized: how many linears are quantized.
        notes: what the user may want to know, one sentence each.
    """

    tensors: tuple[ExportedTensor, ...]
    graph: Graph
    config: Mapping[str, Any]
    quantized: int
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.type.nbytes for tensor in self.tensors)


def find_format(name: str) -> Format:
    """The format of that name; ExportError, with a suggestion, if there is none."""
    if name not in FORMATS:
        raise ExportError(
            f"there is no format {name!r}{did_you_mean(name, FORMATS)}", hint=f"formats are: {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def plan_export(graph: Graph, config: Mapping[str, Any], format_: Format) -> ExportPlan:
    """What of a graph is to be written in a format. Nothing is read.

    Args:
        graph: the graph after all passes, or that of an engine of one rank.
        config: the content of the `config.json` that the model was lifted by.
        format_: the format.

    Raises:
        ExportError: naming the op, if the graph is no model of its family any more; naming the module and formats that
            can, if the format cannot say what it is.
        ConfigError: if no frontend reads the config.
    """
    assembly = Assembly(correspond(graph, config))
    model = assembly.model()
    refusal = next(iter(format_.refusals(model)), None)
    if refusal is not None:
        raise ExportError(f"the format {format_.name} {refusal}", hint=_mend(model))
    tensors = _tensors(assembly, model, format_)
    return ExportPlan(
        tensors=tuple(tensors),
        graph=assembly.graph({tensor.value.name: tensor.value for tensor in tensors}),
        config=_config(config, model, format_),
        quantized=len(model.quantized),
        notes=tuple(dict.fromkeys(assembly.notes)),
    )


def _mend(model: ExportedModel) -> str:
    """What the user can do about a model that a format has no place for."""
    able, plain = _able(model), _able(_without_factors(model))
    if able:
        more = f"; with multiply=false of quant {', '.join(plain)}" if plain != able else ""
        return f"formats that can say what the model is: {', '.join(able)}{more}"
    if plain:
        return f"with multiply=false of quant, which leaves such inputs as they are, {', '.join(plain)} can"
    return "no format can say all that the passes make of the model: leave some of them, or some of their options, out"


def _able(model: ExportedModel) -> list[str]:
    """The formats that can say what a model is."""
    return [format_.name for format_ in FORMATS.values() if next(iter(format_.refusals(model)), None) is None]


def _without_factors(model: ExportedModel) -> ExportedModel:
    """The model without what inputs are multiplied by."""
    modules = {
        name: replace(module, input=replace(module.input, factor=None)) for name, module in model.quantized.items()
    }
    return replace(model, quantized=modules)


def _tensors(assembly: Assembly, model: ExportedModel, format_: Format) -> list[ExportedTensor]:
    found: list[ExportedTensor] = []
    for name in model.names:
        if name in model.plain:
            stored = as_stored(assembly.b, name, model.plain[name])
            found.append(stored if stored.type.dtype is _dtype(model) else _cast(assembly, stored, _dtype(model)))
        elif (module := model.quantized.get(name.removesuffix(".weight"))) is not None:
            found += format_.tensors(assembly.b, module)
    return found + format_.cache_tensors(assembly.b, model)


def _cast(assembly: Assembly, tensor: ExportedTensor, dtype: DType) -> ExportedTensor:
    value = assembly.b.cast(tensor.value, dtype=dtype, name="cast")
    return ExportedTensor(tensor.name, value.type, value)


def _dtype(model: ExportedModel) -> DType:
    return COMPUTE_DTYPES[str(model.config["dtype"])]


def _config(config: Mapping[str, Any], model: ExportedModel, format_: Format) -> dict[str, Any]:
    """The config with what the passes have changed, under the keys that it has."""
    dtype_key = next((key for key in DTYPE_KEYS if config.get(key) is not None), DTYPE_KEYS[-1])
    kept = {key: value for key, value in config.items() if key not in (*QUANTIZED_KEYS, *DTYPE_KEYS)}
    made = {**kept, dtype_key: model.config["dtype"]}
    if "tie_word_embeddings" in model.config:
        made["tie_word_embeddings"] = model.config["tie_word_embeddings"]
    quantized = format_.config(model)
    return made if quantized is None else {**made, "quantization_config": quantized}
