"""Prompt tables of FasterTransformer: what its converters write is read, and what does not fit together is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compiler.adapters import AddPrompts
from compiler.adapters.reading import read_prompt_adapter
from compiler.errors import LlmcError
from compiler.ir.dtypes import DType
from compiler.ir.step import Step, all_positions
from compiler.ir.tasks import Task, tasks_of
from compiler.ir.virtual_ranks import VirtualRanks
from tests.adapters.folders import PREFIX, bundled, logits, table
from tests.passes.parallel.meshes import lifted

INI = """
[gpt]
head_num = 4
size_per_head = 32
num_layer = 4
weight_data_type = fp32
num_tasks = 2
prompt_learning_start_id = 50257
prompt_learning_type = 3

[task_0]
task_name = other.one
prompt_length = 7

[task_1]
task_name = squad
prompt_length = 5
"""
VALUES = table("PROMPT_TUNING", 5)


def written(folder: Path, ini: str = INI, values: torch.Tensor = VALUES, name: str = "squad") -> Path:
    """The file of a prompt table, beside its config."""
    (folder / "config.ini").write_text(ini)
    path = folder / f"model.prompt_table.{name}.weight.bin"
    values.numpy().tofile(path)
    return path


@pytest.mark.parametrize(("dtype", "known"), [(torch.float32, DType.f32), (torch.float16, DType.f16)])
def test_a_table_has_the_type_that_its_size_tells(tmp_path: Path, dtype: torch.dtype, known: DType) -> None:
    read = read_prompt_adapter(written(tmp_path, values=VALUES.to(dtype)))
    assert (read.kind, read.virtual_tokens, read.width, read.layers, read.heads) == ("PROMPT_TUNING", 5, 128, 4, 4)
    assert read.table.dtype is known


def test_logits_are_those_of_transformers_with_the_embeddings(tmp_path: Path) -> None:
    graph = AddPrompts((written(tmp_path),))(lifted("opt"))
    [task] = tasks_of(graph.facts)
    assert task == Task("squad", "PROMPT_TUNING", 1024, 5)
    step = Step.of_prompts([[*task.ids, 7, 8, 9]])
    ranks = VirtualRanks(graph)
    outputs, _ = ranks(step.wanting(all_positions(1, 8))._asdict(), ranks.empty_states(1, 8))
    expected = logits(bundled("opt"), [7, 8, 9], "PROMPT_TUNING", VALUES)
    torch.testing.assert_close(outputs["logits"][0, 5:], expected, rtol=0, atol=2e-4)


def write_prefix(folder: Path, values: torch.Tensor, degree: int) -> Path:
    """The files of a prefix, cut by heads; returns the first."""
    (folder / "config.ini").write_text(INI)
    whole = values.view(len(values), 4, 2, 4, 32).permute(1, 2, 3, 0, 4)
    for rank, part in enumerate(whole.chunk(degree, 2)):
        part.contiguous().numpy().tofile(folder / f"model.prefix_prompt.squad.weight.{rank}.bin")
    return folder / "model.prefix_prompt.squad.weight.0.bin"


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_prefix_is_merged_from_the_files_of_all_ranks(tmp_path: Path, degree: int) -> None:
    values = table(PREFIX, 5)
    graph = AddPrompts((write_prefix(tmp_path, values, degree),))(lifted("gptneox"))
    [task] = tasks_of(graph.facts)
    assert task == Task("squad", PREFIX, 1024, 5)
    step = Step.of_prompts([[*task.ids, 7, 8, 9]])
    ranks = VirtualRanks(graph)
    outputs, _ = ranks(step.wanting(all_positions(1, 8))._asdict(), ranks.empty_states(1, 8))
    expected = logits(bundled("gptneox"), [7, 8, 9], PREFIX, values)
    torch.testing.assert_close(outputs["logits"][0, 5:], expected, rtol=0, atol=2e-4)


def test_a_prefix_without_some_of_its_files_is_refused(tmp_path: Path) -> None:
    path = write_prefix(tmp_path, table(PREFIX, 5), 4)
    (tmp_path / "model.prefix_prompt.squad.weight.2.bin").unlink()
    with pytest.raises(LlmcError, match="holds 3 files of the prefix of 'squad', and that of rank 2 is missing"):
        read_prompt_adapter(path)
    (tmp_path / "model.prefix_prompt.squad.weight.3.bin").unlink()
    with pytest.raises(LlmcError, match=r"has 5120 bytes; config.ini makes it \[4, 2, 2, 5, 32\]"):
        read_prompt_adapter(path)


@pytest.mark.parametrize(
    ("ini", "name", "message"),
    [
        (INI, "squat", "no section 'task_N' whose 'task_name' is 'squat'"),
        (INI, "other.one", "has 2560 bytes; 7 embeddings of 128 .* take 3584 in float32, or 1792 in float16"),
        (INI.replace("prompt_length = 5", ""), "squad", "'prompt_length' of the section 'task_1' is missing"),
        (INI.replace("head_num = 4", "head_num = many"), "squad", "'head_num' of the section 'gpt' is 'many'"),
        (INI.replace("head_num = 4", ""), "squad", "no section with 'head_num'"),
        ("head_num = 4", "squad", "config.ini cannot be read"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, ini: str, name: str, message: str) -> None:
    path = written(tmp_path, ini, name=name)
    with pytest.raises(LlmcError, match=message) as raised:
        read_prompt_adapter(path)
    assert raised.value.hint and str(tmp_path) in str(raised.value)


def test_a_file_that_is_no_table_and_a_table_without_a_config_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(LlmcError, match=r"config\.ini is no adapter"):
        read_prompt_adapter(tmp_path / "config.ini")
    (tmp_path / "config.ini").unlink()
    with pytest.raises(LlmcError, match=r"there is no .*config\.ini"):
        read_prompt_adapter(path)
