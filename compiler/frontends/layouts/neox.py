"""GPT-NeoX directories, as EleutherAI's library and DeepSpeed save them, in any number of parallel parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compiler.errors import CheckpointError
from compiler.frontends.checkpoint import Checkpoint, StoredWeights
from compiler.frontends.composed import SourceTensor, averaged, joined, renamed, summed
from compiler.frontends.layouts.neox_config import (
    NeoxConfig,
    config_files,
    is_tied,
    layer_count,
    read_config,
    transformers_config,
    usual_end_of_text,
)
from compiler.frontends.layouts.neox_files import NeoxFiles, find_neox, holds_neox, relative
from compiler.frontends.layouts.registry import layout
from compiler.frontends.layouts.tokenizer_file import find_tokenizer, id_of_token
from compiler.frontends.torch_file import read_training_file
from compiler.store.stored_tensor import StoredTensor

Merge = Callable[[str, Sequence[SourceTensor]], SourceTensor]
"""Makes one tensor of the parts that the tensor-parallel ranks hold."""

_BY_ROWS: Merge = partial(joined, axis=0)
_BY_COLUMNS: Merge = partial(joined, axis=1)
_MODULE = "module"
_END_OF_TEXT = "<|endoftext|>"
_TOGETHER = "the files belong to different checkpoints, or the config is another model's"


def _first(name: str, parts: Sequence[SourceTensor]) -> SourceTensor:
    return renamed(name, parts[0])


# The modules of a block: GPT-NeoX's own names, newer ones, and those of Transformer Engine, which joins some by `_`.
_SPELLINGS = {
    "mlp.linear1.": "mlp.dense_h_to_4h.",
    "mlp.linear2.": "mlp.dense_4h_to_h.",
    "mlp.fc1_": "mlp.dense_h_to_4h.",
    "mlp.fc2_": "mlp.dense_4h_to_h.",
    "mlp.layer_norm_": "post_attention_layernorm.",
    "attention.qkv.": "attention.query_key_value.",
    "attention.proj.": "attention.dense.",
}
_COLUMN_PARALLEL = ("attention.query_key_value", "mlp.dense_h_to_4h")
_ROW_PARALLEL = ("attention.dense", "mlp.dense_4h_to_h")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_NO_WEIGHT = re.compile(r"(.*\.)?_extra_state")


@layout("gpt-neox", holds_neox)
def open_neox(path: Path) -> Checkpoint:
    """Open the directory of a run, or of one of its steps.

    Raises:
        CheckpointError: if files are missing or do not belong together.
        ConfigError: if there is no config, or the model is none that transformers' GPT-NeoX can be.
    """
    files = find_neox(path)
    step = files.step
    places = [folder / inner for folder in (step, path, step.parent) for inner in ("configs", "")]
    found = config_files(places)
    config = read_config(found)
    states = _states(path, files)
    layers = layer_count(config)
    _check_layers(path, states, layers, tied=is_tied(config))
    _check_degree(config, files)
    vocab = sum(_shape(state, "word_embeddings.weight")[0] for state in states[0])
    inner = sum(_shape(state, "mlp.dense_h_to_4h.weight")[0] for state in states[2])
    tokenizer = find_tokenizer(path, [step, step.parent], config.take("vocab_file", str, default=""))
    ending = None if tokenizer is None else id_of_token(tokenizer, _END_OF_TEXT)
    usual = transformers_config(config, vocab, inner, usual_end_of_text(config) if ending is None else ending)
    merged = _merged(states, layers, parallel=usual["use_parallel_residual"])
    names = tuple(relative(path, step / name) for name in files.names)
    return Checkpoint(
        path,
        usual,
        lambda: StoredWeights(names, merged),
        tokenizer_file=tokenizer,
        config_files=[relative(path, file) for file in found],
        notes=_notes(config, files),
    )


def _states(path: Path, files: NeoxFiles) -> Mapping[int, Sequence[Mapping[str, StoredTensor]]]:
    """The tensors of each layer, by their usual names, one mapping for each tensor-parallel rank."""
    if files.ranks:
        return _by_rank(path, files)
    states: dict[int, list[Mapping[str, StoredTensor]]] = {}
    for layer, names in files.layers.items():
        found = [(file := relative(path, files.step / name), read_training_file(path / file, file)) for name in names]
        states[layer] = [_usual(content, file) for file, content in found]
    return states


def _by_rank(path: Path, files: NeoxFiles) -> Mapping[int, Sequence[Mapping[str, StoredTensor]]]:
    states: dict[int, list[dict[str, StoredTensor]]] = {}
    for rank, name in enumerate(files.ranks):
        file = relative(path, files.step / name)
        module = read_training_file(path / file, file).get(_MODULE)
        if not isinstance(module, dict) or not module:
            raise CheckpointError(
                f"{file} holds no model under {_MODULE!r}",
                hint="a run with pipeline stages stores the model in files layer_*-model_*-model_states.pt: copy them",
            )
        for key, tensor in _usual(module, file).items():
            match = re.fullmatch(r"(?:.*\.)?sequential\.(\d+)\.(.*)", key)
            if not match:
                raise CheckpointError(f"the tensor {key!r} in {file} belongs to no layer", hint=_TOGETHER)
            layer = states.setdefault(int(match[1]), [{} for _ in files.ranks])
            layer[rank][_usual_name(match[2])] = tensor
    return dict(sorted(states.items()))


def _usual(content: Mapping[str, Any], file: str) -> dict[str, StoredTensor]:
    """The tensors of a state, by their usual names; CheckpointError if there is anything else."""
    found: dict[str, StoredTensor] = {}
    for name, value in content.items():
        if _NO_WEIGHT.fullmatch(name):
            continue
        if not isinstance(value, StoredTensor):
            raise CheckpointError(f"the entry {name!r} of {file} is no tensor", hint=_TOGETHER)
        found[_usual_name(name)] = value
    return found


def _usual_name(name: str) -> str:
    for other, usual in _SPELLINGS.items():
        if name.startswith(other):
            return usual + name.removeprefix(other)
    return name


def _shape(state: Mapping[str, StoredTensor], name: str) -> tuple[int, ...]:
    if name not in state:
        where = next((tensor.file for tensor in state.values()), "an empty file")
        raise CheckpointError(f"the tensor {name!r} is missing from {where}", hint=_TOGETHER)
    return state[name].shape or (0,)


def _check_layers(path: Path, states: Mapping[int, Any], layers: int, *, tied: bool) -> None:
    """CheckpointError if layers are missing, or there are more than the config says."""
    needed = [0, *range(2, layers + 2), layers + 3, *([] if tied else [layers + 4])]
    said = f"its config says num_layers = {layers}{'' if tied else ' and no_weight_tying'}"
    missing = [layer for layer in needed if layer not in states]
    if missing:
        raise CheckpointError(f"the layer {missing[0]} of the pipeline is missing from {path}: {said}", hint=_TOGETHER)
    if more := sorted(states.keys() - {*needed, layers + 4}):
        raise CheckpointError(f"{path} holds a layer {more[0]} of the pipeline, but {said}", hint=_TOGETHER)


def _check_degree(config: NeoxConfig, files: NeoxFiles) -> None:
    """CheckpointError if the config knows of more parts than there are."""
    said = config.take("model_parallel_size", int, default=files.degree)
    if said > files.degree:
        raise CheckpointError(
            f"{files.step} holds the files of {files.degree} tensor-parallel parts; "
            f"its config says model_parallel_size = {said}",
            hint="copy the files of the other ranks, or set it to what is stored if the parts were merged",
        )


def _merged(
    states: Mapping[int, Sequence[Mapping[str, StoredTensor]]], layers: int, *, parallel: bool
) -> dict[str, SourceTensor]:
    """Every tensor of the model, whole, by the name that transformers gives it."""
    tensors: dict[str, SourceTensor] = {}
    for layer, ranks in states.items():
        for name in ranks[0]:
            missing = next((i for i, rank in enumerate(ranks) if name not in rank), None)
            if missing is not None:
                raise CheckpointError(
                    f"the tensor {name!r} of layer {layer} is missing from rank {missing}: rank 0 has it",
                    hint=_TOGETHER,
                )
            usual, merge = _place(layer, name, layers, parallel=parallel) or (None, _first)
            if usual is None:
                stored = ranks[0][name]
                raise CheckpointError(
                    f"the tensor {stored.name!r} in {stored.file} has no place in a GPT-NeoX model",
                    hint="the model is a variant that is not supported",
                )
            tensors[usual] = merge(usual, [rank[name] for rank in ranks])
        if more := next((name for rank in ranks for name in rank if name not in ranks[0]), None):
            raise CheckpointError(f"the tensor {more!r} of layer {layer} is missing from rank 0", hint=_TOGETHER)
    return tensors


def _place(layer: int, name: str, layers: int, *, parallel: bool) -> tuple[str, Merge] | None:
    """What transformers calls a tensor, and how its parts make one; None if the model has no such tensor."""
    module, _, kind = name.rpartition(".")
    weight = kind == "weight"
    if kind not in ("weight", "bias", "inv_freq"):
        return None
    match layer, module:
        case 0, "word_embeddings" if weight:
            return "gpt_neox.embed_in.weight", _BY_ROWS
        case _, "norm" if layer == layers + 3:
            return f"gpt_neox.final_layer_norm.{kind}", averaged
        case _, "final_linear" if layer == layers + 4 and weight:
            return "embed_out.weight", _BY_ROWS
    if not 2 <= layer < layers + 2:
        return None
    usual = f"gpt_neox.layers.{layer - 2}.{name}"
    if module in _COLUMN_PARALLEL:
        return usual, _BY_ROWS
    if module in _ROW_PARALLEL:
        # With the residuals of GPT-J, each rank adds a bias of its own before the sum over ranks; else all add the same
        # one after it.
        return usual, _BY_COLUMNS if weight else summed if parallel else averaged
    if module in _NORMS:
        return usual, averaged
    return (usual, _first) if kind == "inv_freq" else None


def _notes(config: NeoxConfig, files: NeoxFiles) -> list[str]:
    notes = []
    if files.ignored:
        more = f" and {len(files.ignored) - 1} more" if len(files.ignored) > 1 else ""
        notes.append(f"{files.ignored[0]}{more}: the state of the training run, which is not read")
    if config.values.get("bias_gelu_fusion") and config.values.get("activation", "gelu") == "gelu":
        notes.append("the run's config says 'bias_gelu_fusion': GELU is computed by tanh, as the model was trained")
    said = config.take("model_parallel_size", int, default=files.degree)
    if said < files.degree:
        notes.append(
            f"the run's config says model_parallel_size = {said}; the {files.degree} parts that are stored count"
        )
    return notes
