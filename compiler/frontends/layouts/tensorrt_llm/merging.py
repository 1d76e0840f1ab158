"""The tensors of all ranks as those of one model, by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.frontends.composed import SourceTensor, joined, sliced, summed
from compiler.frontends.layouts.tensorrt_llm.config import RankConfig
from compiler.frontends.layouts.tensorrt_llm.families import Names, cut_rows, padded_above
from compiler.frontends.layouts.tensorrt_llm.linears import KINDS, Forms, Linear, Stored
from compiler.frontends.layouts.tensorrt_llm.ranks import Stage, check_all_used, replica
from compiler.frontends.read_stored import read_stored
from compiler.ir.dims import shape_text
from compiler.store.stored_tensor import StoredTensor

# What has something for each output, and of a row-parallel linear something for each input, too.
_BY_OUTPUT = ("weight", "bias", "weight_scale", "weight_zero")
_BY_INPUT = ("pre_quant_scale", "smoother")
# Where the scale of a linear's inputs is, inverted, in older SmoothQuant checkpoints.
_TO_INT = {
    "attention.qkv": "input_layernorm.scale_to_int",
    "attention.dense": "attention.quantization_scaling_factor",
    "mlp.fc": "post_layernorm.scale_to_int",
    "mlp.proj": "mlp.quantization_scaling_factor",
}
_CACHES = {"k": "attention.k_cache_scaling_factor", "v": "attention.v_cache_scaling_factor"}
_BOTH_CACHES = "attention.kv_cache_scaling_factor"


class Merging:
    """The tensors of a checkpoint on their way to Hugging Face names."""

    def __init__(self, folder: Path, config: RankConfig, names: Names, forms: Forms) -> None:
        self.folder = folder
        self.config = config
        self.names = names
        self.forms = forms
        self.found: dict[str, SourceTensor] = {}

    def merged(self, stages: Sequence[Stage]) -> dict[str, SourceTensor]:
        """The tensors of the model.

        Raises:
            CheckpointError: if one is missing, does not fit the config or the other ranks, or has no place.
        """
        first, last, names = stages[0], stages[-1], self.names
        self._table(first, "transformer.vocab_embedding.weight", f"{names.embedding}.weight", self.config.vocab)
        if names.positions is not None:
            self._positions(first, names.positions)
        number = 0
        for stage in stages:
            for i in range(stage.layers):
                self._layer(stage, f"transformer.layers.{i}.", names.layer.format(number))
                number += 1
        self._replicas(last, "transformer.ln_f.", f"{names.final_norm}.")
        self._head(first, last)
        check_all_used(stages)
        return self.found

    def _table(self, stage: Stage, name: str, usual: str, rows: int) -> None:
        """A table of embeddings, which each rank has, or which is shared out by its rows or columns."""
        config, parts = self.config, stage.take(name)
        width = parts[0].shape[-1]
        if config.tp > 1 and width * config.tp == config.hidden:
            self.found[usual] = cut_rows(joined(name, parts, 1), rows)
        elif config.tp > 1 and parts[0].shape[0] < rows:
            self.found[usual] = cut_rows(joined(name, parts, 0), rows)
        else:
            self.found[usual] = cut_rows(parts[0], rows)

    def _positions(self, stage: Stage, module: str) -> None:
        name = "transformer.position_embedding.weight"
        parts = stage.take(name)
        columns = parts[0].shape[-1] * self.config.tp == self.config.hidden and self.config.tp > 1
        whole = joined(name, parts, 1) if columns else replica(parts, self.folder)
        self.found[f"{module}.weight"] = padded_above(name, whole, self.names.unused_positions)

    def _replicas(self, stage: Stage, prefix: str, usual: str) -> None:
        """A norm."""
        for kind in ("weight", "bias"):
            if stage.has(prefix + kind):
                self.found[usual + kind] = replica(stage.take(prefix + kind), self.folder)

    def _head(self, first: Stage, last: Stage) -> None:
        """The head, which is shared out by its outputs, or else is the table of embeddings."""
        table = "transformer.vocab_embedding.weight"
        if last.has("lm_head.weight"):
            ranks = self._ranks(last, "lm_head", "lm_head")
            rows = [stored["weight"].shape[0] for stored in ranks]
            linears = [self.forms.linear(s, self.config.hidden, count) for s, count in zip(ranks, rows, strict=True)]
            whole = self._outputs_joined("lm_head", linears)
            for kind, tensor in whole.items():
                by_output = kind in _BY_OUTPUT and tensor.shape[0] > 1
                self.found[f"{self.names.head}.{kind}"] = cut_rows(tensor, self.config.vocab) if by_output else tensor
        elif last is not first and last.has(table):
            self._table(last, table, f"{self.names.head}.weight", self.config.vocab)

    def _layer(self, stage: Stage, prefix: str, usual: str) -> None:
        config, modules = self.config, self.names.modules
        for module, name in modules.items():
            if module.endswith("layernorm"):
                self._replicas(stage, f"{prefix}{module}.", f"{usual}{name}.")
        self._qkv(stage, prefix, usual)
        sizes = {
            "attention.dense": (config.hidden, config.hidden),
            "mlp.fc": (config.hidden, config.inner),
            "mlp.proj": (config.inner, config.hidden),
        }
        for module, (inputs, outputs) in sizes.items():
            ranks = self._ranks(stage, prefix + module, module)
            if module == "mlp.fc":
                linears = [self.forms.linear(stored, inputs, outputs // config.tp) for stored in ranks]
                whole = self._outputs_joined(prefix + module, linears)
            else:
                linears = [self.forms.linear(stored, inputs // config.tp, outputs) for stored in ranks]
                whole = self._inputs_joined(prefix + module, linears)
            self._put(f"{usual}{modules[module]}.", whole)
        self._caches(stage, prefix, f"{usual}{self.names.attention}.")

    def _put(self, module: str, linear: Linear) -> None:
        self.found |= {module + kind: tensor for kind, tensor in linear.items()}

    def _qkv(self, stage: Stage, prefix: str, usual: str) -> None:
        config, name = self.config, f"{prefix}attention.qkv"
        q = config.heads // config.tp * config.head_dim
        kv = max(config.kv_heads // config.tp, 1) * config.head_dim
        ranks = self._ranks(stage, name, "attention.qkv")
        linears = [self.forms.linear(stored, config.hidden, q + 2 * kv) for stored in ranks]
        copies = max(config.tp // config.kv_heads, 1)  # ranks that have the same keys and values
        parts = []
        for start, size, step in ((0, q, 1), (q, kv, copies), (q + kv, kv, copies)):
            cut = [_rows(linear, start, size) for linear in linears[::step]]
            parts.append(self._outputs_joined(name, cut))
        if self.names.fuse is None:
            for module, part in zip(self.names.qkv, parts, strict=True):
                self._put(f"{usual}{module}.", part)
            return
        fused = dict(parts[0])
        for kind in parts[0]:
            tensors = [part[kind] for part in parts]
            if kind in _BY_OUTPUT and tensors[0].shape[0] > 1:
                fused[kind] = self.names.fuse(f"{name}.{kind}", tensors, config)
        self._put(f"{usual}{self.names.qkv[0]}.", fused)

    def _ranks(self, stage: Stage, name: str, module: str) -> list[Stored]:
        """What each rank stores of a linear; CheckpointError if it has no weight."""
        stage.take(f"{name}.weight")
        kinds = {kind: f"{name}.{kind}" for kind in KINDS}
        if module in _TO_INT:
            kinds["to_int"] = name.removesuffix(module) + _TO_INT[module]
        there = {kind: stage.take(full) for kind, full in kinds.items() if stage.has(full)}
        return [{kind: parts[rank] for kind, parts in there.items()} for rank in range(self.config.tp)]

    def _outputs_joined(self, name: str, linears: Sequence[Linear]) -> Linear:
        """The linears of all ranks, which share out the outputs, as one."""
        whole: Linear = {}
        for kind, first in linears[0].items():
            parts = [linear[kind] for linear in linears]
            by_output = kind in _BY_OUTPUT and first.shape[0] > 1
            whole[kind] = joined(f"{name}.{kind}", parts, 0) if by_output else self._alike(parts)
        return whole

    def _inputs_joined(self, name: str, linears: Sequence[Linear]) -> Linear:
        """The linears of all ranks, which share out the inputs, as one."""
        whole: Linear = {}
        # Scales belong to groups of inputs, or each rank has quantized its inputs alone.
        by_input = (self.forms.algorithm or "").endswith(("A16", "_GPTQ", "_AWQ"))
        for kind, first in linears[0].items():
            parts = [linear[kind] for linear in linears]
            groups = kind in ("weight_scale", "weight_zero") and (first.shape[1] > 1 or by_input)
            if kind == "bias":
                whole[kind] = self._row_bias(f"{name}.bias", parts)
            elif kind == "weight" or groups:
                whole[kind] = joined(f"{name}.{kind}", parts, 1)
            elif kind in _BY_INPUT:
                whole[kind] = joined(f"{name}.{kind}", parts, 0)
            else:
                whole[kind] = self._alike(parts)
        return whole

    def _row_bias(self, name: str, parts: Sequence[SourceTensor]) -> SourceTensor:
        """The bias of a linear whose inputs are shared out.

        Each rank has all of it; or the first has, and the others zeros; or, of GPTQ, each an equal share.
        """
        if (self.forms.algorithm or "").endswith("_GPTQ"):
            return summed(name, parts)
        values = [read_stored(part, self.folder) for part in parts[1:]]
        if values and not any(value.any() for value in values):
            return parts[0]
        return self._alike(parts)

    def _alike(self, parts: Sequence[SourceTensor]) -> SourceTensor:
        """What all ranks have alike; CheckpointError if they do not."""
        stored = [part for part in parts if isinstance(part, StoredTensor)]
        if len(stored) == len(parts):
            return replica(stored, self.folder)
        first = read_stored(parts[0], self.folder)
        for other in parts[1:]:
            if not first.equal(read_stored(other, self.folder)):
                raise CheckpointError(
                    f"the tensor {parts[0].name!r} is another one in {other.file} than in {parts[0].file}; "
                    "ranks must have it alike",
                    hint="the files belong to different checkpoints: give the files that belong together",
                )
        return parts[0]

    def _caches(self, stage: Stage, prefix: str, attention: str) -> None:
        """The scales of cached keys and values, together or each."""
        for which, name in _CACHES.items():
            found = next((full for full in (prefix + name, prefix + _BOTH_CACHES) if stage.has(full)), None)
            if found is not None:
                self.found[f"{attention}{which}_scale"] = replica(stage.take(found), self.folder)


def _rows(linear: Linear, start: int, size: int) -> Linear:
    """Some outputs of a linear; CheckpointError if it has fewer."""
    cut = dict(linear)
    for kind, tensor in linear.items():
        if kind in _BY_OUTPUT and tensor.shape[0] > 1:
            if tensor.shape[0] < start + size:
                raise CheckpointError(
                    f"the tensor {tensor.name!r} in {tensor.file} is {shape_text(tensor.shape)}, and queries, keys and "
                    f"values need {start + size} rows or more",
                    hint="config.json and the weights belong to different models",
                )
            cut[kind] = sliced(tensor.name, tensor, 0, start, size)
    return cut
