"""Virtual tokens of FasterTransformer: `model.prompt_table.TASK.weight.bin` beside `config.ini`. Nothing is read here.

The file holds the embeddings of a task's virtual tokens, row by row, and nothing else. `config.ini` says how many there
are (`prompt_length` of the section `task_N` whose `task_name` is the task) and how wide they are (`head_num` times
`size_per_head`). Prefixes are `model.prefix_prompt.TASK.weight.RANK.bin`, for each tensor-parallel rank the keys and
values of its heads, `[layers, 2, heads, tokens, size_per_head]`.
"""

from __future__ import annotations

import glob
import math
import re
from configparser import ConfigParser, SectionProxy
from configparser import Error as IniError
from pathlib import Path

from compiler.adapters.adapter import PREFIX, PromptAdapter
from compiler.errors import CheckpointError, ConfigError
from compiler.frontends.composed import SourceTensor, joined, reshaped, transposed
from compiler.ir.dtypes import DType
from compiler.store.stored_tensor import StoredTensor
from compiler.text_files import read_text

CONFIG = "config.ini"
_TABLE = re.compile(r"model\.prompt_table\.(.+)\.weight\.bin")
_PREFIX = re.compile(r"model\.prefix_prompt\.(.+)\.weight\.\d+\.bin")
_BYTES = {"fp32": 4, "fp16": 2}
# What converters write, by the bytes of an element.
_DTYPES = {4: DType.f32, 2: DType.f16}


def task_of_table(path: Path) -> str | None:
    """The task whose prompt table, or part of a prefix, a file is by its name; None if it is none."""
    found = _TABLE.fullmatch(path.name) or _PREFIX.fullmatch(path.name)
    return found[1] if found else None


def read_prompt_table(path: Path) -> PromptAdapter:
    """The prompt table in a file, or the prefix of which it is a part, as the `config.ini` beside it describes it.

    Args:
        path: the file, absolute.

    Raises:
        CheckpointError: if a file is not as large as the config says, or a part is missing.
        ConfigError: if there is no config, or it does not describe the table.
    """
    name = task_of_table(path)
    if name is None:
        raise CheckpointError(
            f"{path} is no adapter", hint="give the folder of one, or a file model.prompt_table.TASK.weight.bin"
        )
    ini = _read(path.parent / CONFIG)
    task = next((ini[section] for section in ini.sections() if ini[section].get("task_name") == name), None)
    if task is None:
        raise ConfigError(
            f"{path.parent / CONFIG} has no section 'task_N' whose 'task_name' is {name!r}",
            hint="copy the file that was written with the prompt tables",
        )
    model = next((ini[section] for section in ini.sections() if "head_num" in ini[section]), None)
    if model is None:
        raise ConfigError(f"{path.parent / CONFIG} has no section with 'head_num'", hint="copy the model's config.ini")
    where = path.parent / CONFIG
    tokens, heads = _integer(where, task, "prompt_length"), _integer(where, model, "head_num")
    layers = _integer(where, model, "num_layer") if "num_layer" in model else None
    width = heads * _integer(where, model, "size_per_head")
    if _PREFIX.fullmatch(path.name):
        layers = _integer(where, model, "num_layer")
        said = _BYTES.get(model.get("weight_data_type", ""))  # half the files in float32 are as large as all in float16
        prefix = _prefix(path.parent, name, (layers, heads, tokens, width // heads), said)
        return PromptAdapter(path, PREFIX, tokens, width, layers, heads, prefix)
    size = path.stat().st_size
    dtype = _DTYPES.get(size // (tokens * width)) if size % (tokens * width) == 0 else None
    if dtype is None:
        raise CheckpointError(
            f"{path} has {size} bytes; {tokens} embeddings of {width} ('prompt_length', 'head_num' and 'size_per_head' "
            f"in {CONFIG}) take {4 * tokens * width} in float32, or {2 * tokens * width} in float16",
            hint="the table and config.ini belong to different models: copy both again",
        )
    table = StoredTensor(path.name, str(path), 0, size, dtype.value, dtype, (tokens, width))
    return PromptAdapter(path, "PROMPT_TUNING", tokens, width, layers, heads, table)


def _prefix(folder: Path, task: str, sizes: tuple[int, int, int, int], said: int | None) -> SourceTensor:
    """The keys and values of a task from the files of all ranks, `[tokens, layers * 2 * heads * width]`.

    Args:
        folder: the folder of the files.
        task: the task.
        sizes: layers, heads, tokens, and the width of a head.
        said: how many bytes an element takes, if the config says so.
    """
    layers, heads, tokens, width = sizes
    found = sorted(folder.glob(f"model.prefix_prompt.{glob.escape(task)}.weight.*.bin"), key=_rank)
    numbers = [_rank(path) for path in found]
    degree = numbers[-1] + 1
    if numbers != list(range(degree)) or heads % degree:
        missing = next((number for number in range(degree) if number not in numbers), None)
        why = f"that of rank {missing} is missing" if missing is not None else f"they do not divide {heads} heads"
        raise CheckpointError(
            f"{folder} holds {len(found)} files of the prefix of {task!r}, and {why}",
            hint="copy the files of all ranks",
        )
    shape = (layers, 2, heads // degree, tokens, width)
    elements = math.prod(shape)
    parts = []
    for path in found:
        size = path.stat().st_size
        dtype = _DTYPES.get(size // elements) if size % elements == 0 else None
        if dtype is None or said not in (None, size // elements):
            raise CheckpointError(
                f"{path} has {size} bytes; {CONFIG} makes it {list(shape)} (layers, keys and values, heads of {degree} "
                f"ranks, 'prompt_length', 'size_per_head'), which takes {4 * elements} in float32, {2 * elements} in "
                "float16",
                hint="the prefix and config.ini belong to different models, or files of other ranks are missing",
            )
        parts.append(StoredTensor(path.name, str(path), 0, size, dtype.value, dtype, shape))
    name = f"the prefix of {task}"
    rows = transposed(name, joined(name, parts, 2), (3, 0, 1, 2, 4))
    return reshaped(name, rows, tokens, layers * 2 * heads * width)


def _rank(path: Path) -> int:
    return int(path.name.split(".")[-2])


def _read(path: Path) -> ConfigParser:
    if not path.is_file():
        raise ConfigError(f"there is no {path}", hint="a prompt table needs the config.ini that was written with it")
    ini = ConfigParser(interpolation=None)
    try:
        ini.read_string(read_text(path, ConfigError).text)
    except IniError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read: {first}", hint="correct it there, or copy it again") from None
    return ini


def _integer(path: Path, section: SectionProxy, key: str) -> int:
    """A number of at least 1."""
    text = section.get(key, "")
    if not text.isdecimal() or int(text) < 1:
        said = f"is {text!r}" if key in section else "is missing"
        raise ConfigError(
            f"{path}: {key!r} of the section {section.name!r} {said}; it must be a number from 1 on",
            hint="correct it there, or copy it again",
        )
    return int(text)
