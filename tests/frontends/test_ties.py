"""A head that is tied to the embedding, by what is stored. The oracle is what transformers makes of the same files."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compiler.errors import CheckpointError
from tests.frontends.models import logits_of
from tests.frontends.spoiling import MODELS, TABLES, lifted, spoiled
from tests.frontends.steps import assert_same_logits

NOTE = (
    "config.json ties the head to the embedding ('tie_word_embeddings'), but the tensor {!r} says otherwise: "
    "what is stored is used"
)


@settings(max_examples=24)
@given(
    family=st.sampled_from(sorted(MODELS)),
    kept=st.sampled_from(["both", "embedding", "head"]),
    changed=st.booleans(),
    at=st.integers(0, 31 * 16 - 1),
    torch_file=st.booleans(),
)
def test_heads_are_tied_as_transformers_ties_them(family: str, kept: str, changed: bool, at: int, torch_file: bool):
    model = MODELS[family](tie_word_embeddings=True)
    table, head = TABLES[family]

    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors.pop(head, None)
        other = tensors[table] if torch_file else tensors[table].clone()  # torch.save writes one storage once
        if changed and kept == "both":
            other = other.clone()
            other.view(-1)[at] += 0.5
        if kept != "embedding":
            tensors[head] = other
        if kept == "head":
            del tensors[table]
        return tensors

    with spoiled(model, spoil, torch_file=torch_file) as folder:
        graph, notes = lifted(folder)
        expected: Any = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        assert_same_logits(graph, logits_of(expected), vocab=31, seed=at)
    assert notes == ([NOTE.format(head)] if changed and kept == "both" else [])


@pytest.mark.parametrize("family", MODELS)
def test_a_head_that_is_missing_is_not_made_up(family: str):
    head = TABLES[family][1]
    model = MODELS[family](tie_word_embeddings=False)

    def without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors[head]
        return tensors

    with spoiled(model, without_head) as folder, pytest.raises(CheckpointError) as error:
        lifted(folder)
    assert f"the tensor {head!r}" in error.value.message
    assert "is missing from model.safetensors" in error.value.message


def test_a_head_of_another_type_is_compared_by_its_numbers():
    model = MODELS["opt"](tie_word_embeddings=True).half()
    table, head = TABLES["opt"]
    with spoiled(model, lambda tensors: {**tensors, head: tensors[table].float()}) as folder:
        assert lifted(folder)[1] == []
    with spoiled(model, lambda tensors: {**tensors, head: tensors[table].float() * 1.01}) as folder:
        assert lifted(folder)[1] == [NOTE.format(head)]
