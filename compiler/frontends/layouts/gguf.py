"""GGUF files, as llama.cpp's converters write them: one file with a model's config, weights and tokenizer.

Weights in blocks stay quantized where a block is integers times scales; others, and tables of embeddings, become
floats.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.composed import ComposedTensor, SourceTensor, reshaped, transposed
from compiler.frontends.gguf_file import GgufFile, is_gguf, read_gguf
from compiler.frontends.layouts.gguf_config import FAMILIES, Family, config_of
from compiler.frontends.layouts.registry import layout
from compiler.frontends.quantized_form import quantized_form
from compiler.ir.dtypes import DType
from compiler.ir.ops.unpack import BLOCKS
from compiler.store.stored_tensor import StoredTensor

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")
_COMPUTED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# Follows from the config: llama.cpp stores the factors of some rotary positions.
_DROPPED = ("rope_freqs.weight",)


def _matches(path: Path) -> bool:
    """By its first bytes; a file of that name that is something else is said to be so when it is opened."""
    return path.is_file() and (is_gguf(path) or path.suffix == ".gguf")


@layout("gguf", _matches)
def open_gguf(path: Path) -> Checkpoint:
    """Open the file.

    Raises:
        CheckpointError: if it is damaged, or not the first of several.
        ConfigError: if it is of another architecture, or a variant, that is not supported.
    """
    whole = _parts(path)
    first = whole[0]
    config, notes = config_of(first.keys, {name for part in whole for name in part.tensors}, _rows(whole))
    family = FAMILIES[str(first.keys["general.architecture"])]
    config |= {"dtype": _dtype(whole, notes)}
    if any(part.formats for part in whole):
        config["quantization_config"] = quantized_form()
    return Checkpoint(
        path.parent,
        config,
        lambda: StoredWeights(tuple(part.path.name for part in whole), _tensors(whole, family, config)),
        config_files=(path.name,),
        tokenizer_file=path,
        notes=notes,
    )


def _parts(path: Path) -> list[GgufFile]:
    """The file, and those that go on with it; CheckpointError if one is missing."""
    first = read_gguf(path, path.name)
    count = int(first.keys.get("split.count", 1) or 1)
    if count == 1:
        return [first]
    match = _PART.fullmatch(path.name)
    if first.keys.get("split.no", 0) != 0 or match is None:
        raise CheckpointError(
            f"{path} is one of {count} files of a model, and not the first",
            hint=f"give the first, whose name ends in -00001-of-{count:05}.gguf",
        )
    names = [f"{match[1]}-{number:05}-of-{count:05}.gguf" for number in range(2, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{missing[0]} is missing from {path.parent}: {path.name} is one of {count} files")
    return [first, *(read_gguf(path.parent / name, name) for name in names)]


def _rows(parts: list[GgufFile]) -> int:
    """How many tokens there are, by the table of embeddings."""
    tables = [part.tensors["token_embd.weight"] for part in parts if "token_embd.weight" in part.tensors]
    if not tables or len(tables[0].shape) != 2:
        raise CheckpointError(f"the tensor 'token_embd.weight' is missing from {parts[0].path.name}")
    return tables[0].shape[0]


def _dtype(parts: list[GgufFile], notes: list[str]) -> str:
    """What to compute in: that in which most of the weights are stored, and float16 for blocks."""
    sizes: Counter[str] = Counter()
    for part in parts:
        for tensor in part.tensors.values():
            sizes[tensor.spelling] += tensor.nbytes
    most = sizes.most_common(1)[0][0] if sizes else "f32"
    if most not in _COMPUTED:
        notes.append(f"most weights are stored in blocks ({most}): the model computes in float16 (--dtype for another)")
    return _COMPUTED.get(most, "float16")


def _tensors(parts: list[GgufFile], family: Family, config: Mapping[str, Any]) -> dict[str, SourceTensor]:
    """The tensors by their Hugging Face names; CheckpointError if one has none."""
    found: dict[str, SourceTensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in _DROPPED:
                continue
            usual = _usual(name, family)
            if usual is None:
                raise CheckpointError(
                    f"the tensor {name!r} in {tensor.file} has no place in a model of this architecture",
                    hint="the file is a variant that is not supported",
                )
            form = part.formats.get(name)
            whole = {usual: tensor} if form is None else _decoded(usual, tensor, form, linear=name not in family.tables)
            by_head = family.by_head and ".query_key_value." in usual
            found |= {
                key: _by_head(value, int(config["num_attention_heads"])) if by_head else value
                for key, value in whole.items()
            }
    return found


def _usual(name: str, family: Family) -> str | None:
    """The Hugging Face name of a tensor; None if it has none."""
    layer = _LAYER.fullmatch(name)
    if layer is None:
        module, _, kind = name.rpartition(".")
        return f"{family.modules[module]}.{kind}" if module in family.modules else None
    number, module, kind = layer.groups()
    return f"{family.layer.format(number)}{family.in_layer[module]}.{kind}" if module in family.in_layer else None


def _decoded(usual: str, tensor: StoredTensor, form: str, *, linear: bool) -> dict[str, SourceTensor]:
    """What blocks hold: integers and scales if those are all, and it is a weight of a linear, or else floats."""
    found = BLOCKS[form]
    if not (linear and found.bits and len(tensor.shape) == 2):
        return {usual: _part(tensor, form, "values", DType.f32, 1)}
    integer = DType.i4 if found.bits == 4 else DType.i8
    parts: dict[str, SourceTensor] = {
        usual: _part(tensor, form, "integers", integer, 1),
        f"{usual}_scale": _part(tensor, form, "scales", DType.f32, found.group),
    }
    if found.bits == 4:
        parts[f"{usual}_zero"] = _part(tensor, form, "zeros", integer, found.group)
    return parts


def _part(tensor: StoredTensor, form: str, part: str, dtype: DType, per: int) -> ComposedTensor:
    """A part of blocks, with one number for each `per` of theirs."""
    found = BLOCKS[form]
    shape = (*tensor.shape[:-1], tensor.shape[-1] // found.nbytes * found.numbers // per)
    return ComposedTensor(
        tensor.name, (tensor,), shape, dtype, lambda b, xs, n: b.decode_blocks(xs[0], format=form, part=part, name=n)
    )


def _by_head(tensor: SourceTensor, heads: int) -> SourceTensor:
    """Rows of queries, keys and values, one below the other, head by head."""
    rows, *rest = tensor.shape
    split = reshaped(tensor.name, tensor, 3, heads, rows // (3 * heads), *rest)
    turned = transposed(tensor.name, split, (1, 0, *range(2, 3 + len(rest))))
    return reshaped(tensor.name, turned, rows, *rest)
