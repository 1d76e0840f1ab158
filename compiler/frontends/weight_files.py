"""Which files of a folder hold the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import CheckpointError
from compiler.ir.frozen import EMPTY
from compiler.ir.text_files import read_text


@dataclass(frozen=True)
class WeightFiles:
    """Names of the files of weights, and, if the checkpoint has an index, the file of each tensor."""

    names: tuple[str, ...]
    shards: Mapping[str, str] = EMPTY


# In the order in which transformers looks for them.
_USUAL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")


def weight_files(folder: Path) -> WeightFiles:
    """The files of weights in `folder`.

    Raises:
        CheckpointError: if there are none, if it is not clear which, or if some that an index names are missing.
    """
    for name in _USUAL:
        if (folder / name).is_file():
            return _from_index(folder, name) if name.endswith(".json") else WeightFiles((name,))
    for suffix in ("safetensors", "bin"):
        names = sorted(path.name for path in folder.glob(f"*.{suffix}") if path.name != "training_args.bin")
        if len(names) == 1 and not _SHARD.fullmatch(names[0]):
            return WeightFiles((names[0],))
        if names:
            return _shards(folder, names)
    raise CheckpointError(
        f"{folder} holds no weights: neither {', '.join(_USUAL[:-1])} nor {_USUAL[-1]}",
        hint="download the weights too, or compile without them: --dummy-weights",
    )


def _from_index(folder: Path, index: str) -> WeightFiles:
    try:
        mapping = json.loads(read_text(folder / index, CheckpointError).text)["weight_map"]
        names = tuple(sorted({str(name) for name in mapping.values()}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read: {error!r}", hint="download or copy the file again") from None
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is no file of the same folder")
    _all_there(folder, names, f"{index} calls")
    return WeightFiles(names, mapping)


def _shards(folder: Path, names: list[str]) -> WeightFiles:
    """Shards without an index: accepted if their names say that they are one complete set."""
    shards = [_SHARD.fullmatch(name) for name in names]
    sets = {(shard[1], shard[3]) if shard else (name, "") for name, shard in zip(names, shards, strict=True)}
    if len(sets) > 1:
        raise CheckpointError(
            f"{folder} holds several files of weights and no index: {', '.join(names)}",
            hint="keep the one to compile in a folder of its own, beside config.json",
        )
    stem, count = sets.pop()
    suffix = Path(names[0]).suffix
    _all_there(
        folder, tuple(f"{stem}-{i:05}-of-{count}{suffix}" for i in range(1, int(count) + 1)), "the shards' names call"
    )
    return WeightFiles(tuple(names))


def _all_there(folder: Path, names: tuple[str, ...], source: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"the shard {missing[0]} is missing from {folder}: {source} for {len(names)} shards, "
            f"{len(names) - len(missing)} are there",
            hint="download the missing shards",
        )
