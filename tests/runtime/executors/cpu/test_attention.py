"""Attention over pools of blocks by the CPU kernel."""

import pytest
import torch

from runtime.executors.cpu.attention import AttentionForm, PoolScaling
from tests.runtime.executors.cpu.paged_cases import Case

DECODING = [(40, 1), (0, 1), (15, 1), (16, 1), (131, 1)]
PROMPTS = [(0, 70), (33, 21), (100, 2), (5, 90)]
MIXED = [(33, 1), (0, 30), (90, 7), (70, 1), (5, 12)]
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]


@pytest.mark.parametrize("sequences", [DECODING, PROMPTS, MIXED], ids=["decoding", "prompts", "mixed"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_attention_over_pools_of_each_type(library, sequences, dtype):
    for heads, kv_heads in ((2, 2), (6, 2), (20, 1)):
        Case(sequences, heads=heads, kv_heads=kv_heads, width=32, k_type=dtype, v_type=dtype).check(library, 2)


@pytest.mark.parametrize("width", [4, 16, 17, 20, 24, 40, 64, 80, 100, 128, 256])
def test_attention_of_heads_of_any_width(library, width):
    for group in (1, 3, 9):
        case = Case(MIXED, heads=group, kv_heads=1, width=width, k_type=torch.float16, v_type=torch.float16)
        case.check(library, 1)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("sequences", [[(700, 1)], DECODING, [(3, 1), (900, 1), (2, 1)], [(10, 150)], MIXED], ids=str)
def test_attention_is_the_same_however_many_threads_share_it(library, sequences, threads):
    for heads, kv_heads in ((4, 4), (9, 1), (40, 1)):
        Case(sequences, heads=heads, kv_heads=kv_heads, width=16, v_type=torch.bfloat16).check(library, threads)


@pytest.mark.parametrize("sequences", [DECODING, PROMPTS, MIXED], ids=["decoding", "prompts", "mixed"])
@pytest.mark.parametrize("kv_heads", [1, 2, 10])
@pytest.mark.parametrize("window", [-1, 0, 31, 64])
@pytest.mark.parametrize("alibi", [False, True])
def test_attention_within_a_window_and_with_alibi(library, sequences, kv_heads, window, alibi):
    Case(sequences, heads=10, kv_heads=kv_heads, window=window, alibi=alibi).check(library, 2)


@pytest.mark.parametrize("block", [1, 5, 48, 64, 100])
def test_attention_over_blocks_of_any_size(library, block):
    for sequences in (DECODING, MIXED):
        Case(sequences, heads=4, kv_heads=2, width=24, block=block, k_type=torch.float16).check(library, 2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("scale_heads", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_attention_over_scaled_pools(library, dtype, scale_heads, zeros):
    for heads, kv_heads, width in ((3, 3, 16), (4, 2, 21), (12, 1, 16)):
        case = Case(
            MIXED, heads=heads, kv_heads=kv_heads, width=width, k_type=dtype, v_type=torch.int8,
            zeros=zeros and dtype == torch.int8, scale_heads=scale_heads,
        )  # fmt: skip
        case.check(library, 2)


def test_keys_and_values_of_other_widths_and_types(library):
    for heads, kv_heads in ((2, 2), (4, 2), (12, 1)):
        case = Case(
            MIXED, heads=heads, kv_heads=kv_heads, width=40, width_v=18, k_type=torch.bfloat16, v_type=torch.int8
        )
        case.check(library, 2)


@pytest.mark.parametrize("heads", [1, 20])
def test_attention_of_large_scores_stays_finite(library, heads):
    for sequences in ([(300, 1)], [(20, 100)]):
        Case(sequences, heads=heads, kv_heads=1, sharp=100.0).check(library, 2)


def test_nan_in_a_query_is_kept_to_its_token(library):
    case = Case(MIXED, heads=4, kv_heads=2)
    case.q[3, 0] = torch.nan
    context = case.computed(library, 2)
    lost = context.isnan().any(1)
    assert lost[3]
    assert lost.sum() == 1


@pytest.mark.parametrize(
    ("form", "types", "words"),
    [
        (AttentionForm(2, 2, 300, 16, 16, 1.0), (torch.float32, torch.float32), "300 elements"),
        (AttentionForm(2, 2, 16, 16, 16, 1.0), (torch.float64, torch.float32), "pool of keys is torch.float64"),
        (
            AttentionForm(2, 2, 16, 16, 16, 1.0, values=PoolScaling(torch.ones(16))),
            (torch.float32, torch.int8),
            "neither one nor one for each head",
        ),
        (
            AttentionForm(2, 2, 16, 16, 16, 1.0, keys=PoolScaling(torch.ones(1))),
            (torch.float16, torch.float16),
            "scaled",
        ),
    ],
)
def test_forms_that_the_kernel_does_not_compute_are_said(form, types, words):
    assert words in form.unserved(*types)
