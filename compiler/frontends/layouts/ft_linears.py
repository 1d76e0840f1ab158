"""The layers of a FasterTransformer directory, whole and in the layout of transformers.

FasterTransformer stores weights as `[inputs, outputs]`, and fused projections as `[inputs, 3, outputs]`, cut along the
outputs, or for the second linear of a half of a layer along the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.frontends.composed import SourceTensor, joined, reshaped, scaled, sliced, transposed
from compiler.frontends.layouts.ft_config import FtModel
from compiler.frontends.layouts.ft_files import FtFiles
from compiler.frontends.layouts.ft_int8 import Int8

Tensors = dict[str, SourceTensor]


@dataclass(frozen=True)
class FtLayers:
    """The files of a model, read layer by layer.

    Each method takes what FasterTransformer calls a layer (`key`) and what transformers does (`usual`), and returns
    its tensors by the names that transformers gives them; CheckpointError if a file is missing or of another size.

    Attributes:
        model: the sizes.
        files: the files.
        int8: which linears are int8.
    """

    model: FtModel
    files: FtFiles
    int8: Int8

    def norm(self, key: str, usual: str, *, bias: bool = True) -> Tensors:
        """A LayerNorm."""
        kinds = ("weight", "bias") if bias else ("weight",)
        return {f"{usual}.{kind}": self.files.whole(f"{key}.{kind}", self.model.hidden) for kind in kinds}

    def table(self, key: str, usual: str, rows: int) -> Tensors:
        """A table of embeddings, or a head."""
        return {usual: self.files.whole(key, rows, self.model.hidden)}

    def by_outputs(self, key: str, usual: str, *, bias: bool = True) -> Tensors:
        """The first linear of an MLP, which is cut along its outputs."""
        name, out = f"{usual}.weight", self.model.inner
        part = out // self.files.degree
        weight = joined(name, self.int8.parts(self.files, key, self.model.hidden, part), 1)
        tensors: Tensors = {name: transposed(name, weight)}
        if bias:
            tensors[f"{usual}.bias"] = joined(f"{usual}.bias", self.files.parts(f"{key}.bias", part), 0)
        return tensors | self.int8.scales(self.model, self.files, key, [usual], out)

    def by_inputs(self, key: str, usual: str, width: int, *, bias: bool = True, times: int = 1) -> Tensors:
        """A linear back to the model's width, which is cut along its inputs.

        Args:
            key: see the class.
            usual: see the class.
            width: its inputs.
            bias: whether it has a bias.
            times: by what its bias was divided.
        """
        name, out = f"{usual}.weight", self.model.hidden
        weight = joined(name, self.int8.parts(self.files, key, width // self.files.degree, out), 0)
        tensors: Tensors = {name: transposed(name, weight)}
        if bias:
            stored = self.files.whole(f"{key}.bias", out)
            tensors[f"{usual}.bias"] = stored if times == 1 else scaled(f"{usual}.bias", stored, float(times))
        return tensors | self.int8.scales(self.model, self.files, key, [usual], out)

    def by_head(self, key: str, usual: str) -> Tensors:
        """The fused projection with rows `[heads, 3, head_dim]`."""
        m = self.model
        fused = reshaped(key, self._fused(key), m.hidden, 3, m.heads, m.head_dim)
        bias = reshaped(key, self._fused_bias(key), 3, m.heads, m.head_dim)
        name, offset = f"{usual}.weight", f"{usual}.bias"
        return {
            name: reshaped(name, transposed(name, fused, (2, 1, 3, 0)), 3 * m.hidden, m.hidden),
            offset: reshaped(offset, transposed(offset, bias, (1, 0, 2)), 3 * m.hidden),
        }

    def separate(self, key: str, usual: str, *, bias: bool) -> Tensors:
        """The query, key and value as linears of their own; `usual` has a place for their letters."""
        hidden = self.model.hidden
        weight = self._fused(key)
        offset = self._fused_bias(key) if bias else None
        modules = [usual.format(letter) for letter in "qkv"]
        tensors: Tensors = {}
        for i, module in enumerate(modules):
            name = f"{module}.weight"
            tensors[name] = transposed(name, reshaped(name, sliced(name, weight, 1, i, 1), hidden, hidden))
            if offset is not None:
                name = f"{module}.bias"
                tensors[name] = reshaped(name, sliced(name, offset, 0, i, 1), hidden)
        return tensors | self.int8.scales(self.model, self.files, key, modules, hidden)

    def stacked(self, key: str, usual: str, *, bias: bool) -> Tensors:
        """The fused projection with the query, key and value one below the other; keys may have fewer heads."""
        m, files = self.model, self.files
        widths = [heads * m.head_dim // files.degree for heads in (m.heads, m.kv_heads, m.kv_heads)]
        name, offset = f"{usual}.weight", f"{usual}.bias"
        parts = self.int8.parts(files, key, m.hidden, sum(widths))
        tensors: Tensors = {name: transposed(name, _by_projection(name, parts, widths, 1))}
        if bias:
            tensors[offset] = _by_projection(offset, files.parts(f"{key}.bias", sum(widths)), widths, 0)
        return tensors | self.int8.scales(m, files, key, [usual], m.hidden)

    def _fused(self, key: str) -> SourceTensor:
        """The fused projection `[inputs, 3, outputs]`."""
        hidden = self.model.hidden
        return joined(key, self.int8.parts(self.files, key, hidden, 3, hidden // self.files.degree), 2)

    def _fused_bias(self, key: str) -> SourceTensor:
        return joined(key, self.files.parts(f"{key}.bias", 3, self.model.hidden // self.files.degree), 1)


def _by_projection(name: str, parts: Sequence[SourceTensor], widths: Sequence[int], axis: int) -> SourceTensor:
    """The parts of all ranks joined, first all queries, then all keys, then all values, which a part has in a row."""
    if len(parts) == 1:
        return parts[0]
    starts = [sum(widths[:i]) for i in range(3)]
    cuts = zip(starts, widths, strict=True)
    return joined(name, [sliced(name, part, axis, *cut) for cut in cuts for part in parts], axis)
