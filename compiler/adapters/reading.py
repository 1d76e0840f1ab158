"""Reading adapters of virtual tokens: what wrote one shows in what lies at its path."""

from __future__ import annotations

from pathlib import Path

from compiler.adapters.adapter import PromptAdapter
from compiler.adapters.faster_transformer import read_prompt_table, task_of_table
from compiler.adapters.peft import read_peft_folder


def read_prompt_adapter(path: str | Path) -> PromptAdapter:
    """The adapter at a path: a folder that PEFT has saved, or a file with a prompt table of FasterTransformer.

    Raises:
        ConfigError: if its config cannot be read, is of a kind that is not supported, or contradicts the weights.
        CheckpointError: if it is missing or damaged.
    """
    given = Path(path).expanduser()
    return read_prompt_table(given.absolute()) if given.is_file() else read_peft_folder(given)


def name_of_adapter(path: str | Path) -> str:
    """What the task of an adapter is called if nothing is said: by its file, or like its folder."""
    path = Path(path).expanduser().absolute()
    return task_of_table(path) or path.name
