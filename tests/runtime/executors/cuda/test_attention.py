"""Attention over pools of blocks against the interpreter's evaluators. Without a GPU, triton interprets the kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.packed_step import Span
from runtime.executors.cuda.kernels.addresses import TILE, Addresses, work_items
from runtime.executors.cuda.kernels.attention import (
    AttentionForm,
    CacheScales,
    Rotary,
    Workspace,
    attend,
    attend_rows,
)
from runtime.executors.cuda.kernels.tiles import split_count
from tests.runtime.executors.cuda import compiled_attention
from tests.runtime.executors.cuda.attention_cases import DEVICE, Case

ROOT = Path(__file__).parents[4]

INT8, FP8, HALF = torch.int8, torch.float8_e4m3fn, torch.float16
DECODES, CHUNKS = [(5, 1), (0, 1), (40, 1)], [(5, 7), (0, 1), (20, 19)]


@pytest.mark.parametrize("sequences", [DECODES, CHUNKS], ids=["decode", "prefill"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rotary": 16, "padding": 2},
        {"rotary": 8, "interleaved": True, "dtype": HALF, "k_pool": HALF, "v_pool": HALF},
        {"heads": 4, "alibi": True, "block": 7},
        {"heads": 3, "kv_heads": 1, "width": 20, "rotary": 6, "window": 9},
        {"window": 0, "padding": 1},
        {"k_pool": INT8, "v_pool": INT8, "rotary": 4},
        {"k_pool": INT8, "v_pool": INT8, "zeros": True, "heads": 4, "dtype": HALF},
        {"k_pool": FP8, "v_pool": FP8, "dtype": HALF, "rotary": 4},
        {"k_pool": FP8, "v_pool": FP8, "scale_heads": False, "heads": 6},
        {"k_pool": HALF, "v_pool": INT8, "dtype": HALF},
    ],
    ids=str,
)
def test_attention_is_that_of_the_interpreter(sequences, options):
    Case(sequences, **options).check()


@pytest.mark.parametrize("options", [{}, {"heads": 4, "window": 150}, {"kv_heads": 1, "k_pool": INT8, "v_pool": INT8}])
def test_long_sequences_are_shared_by_programs(options):
    """Short ones beside them have fewer shares; the counters are 0 again after a step."""
    workspace = Workspace()
    for seed in range(2):
        case = Case([(200, 1), (70, 1), (3, 1)], seed=seed, **options)
        assert split_count(3, case.kv_heads, 201, torch.device(DEVICE)) > 1
        case.check(workspace=workspace)
        assert not workspace.counters(1, torch.device(DEVICE)).any()


@pytest.mark.parametrize("sequences", [[(200, 1), (70, 1), (0, 5)], [(0, 5), (200, 1), (3, 2), (70, 1)]], ids=str)
def test_single_tokens_beside_chunks_are_shared_by_programs(sequences):
    """Decoding sequences may come first, as a scheduler has them, or anywhere."""
    workspace = Workspace()
    for padding in (0, 2):
        Case(sequences, padding=padding, rotary=4).check(workspace=workspace)
    assert not workspace.counters(1, torch.device(DEVICE)).any()


def test_prompts_longer_than_a_work_item():
    Case([(0, TILE + 5), (30, 3)], heads=1, kv_heads=1).check()


def test_values_that_cannot_be_stored_are_clamped():
    for dtype in (INT8, FP8):
        case = Case([(3, 1), (0, 1)], k_pool=dtype, v_pool=dtype)
        case.v[0, :4] = torch.tensor([1e9, -1e9, float("inf"), float("-inf")])
        _, pools = case.computed()
        expected = case.updated()
        assert torch.equal(pools["v"].view(INT8), expected["v"].view(INT8))


def test_fp8_is_rounded_as_torch_does():
    """All halves of neighbours, what is between them and the halves, and the smallest numbers."""
    codes = torch.arange(0, 127, dtype=torch.uint8).view(FP8).float()
    halves = (codes[1:] + codes[:-1]) / 2
    values = torch.cat([codes, halves, halves.nextafter(codes[1:]), halves.nextafter(codes[:-1]), -halves])
    values = torch.nn.functional.pad(values, (0, -len(values) % 16)).reshape(-1, 16)
    case = Case([(0, 1)] * len(values), k_pool=FP8, v_pool=FP8, heads=1, kv_heads=1, scale_heads=False)
    case.v.copy_(values)
    case.scales["v"].fill_(1.0)
    _, pools = case.computed()
    assert torch.equal(pools["v"].view(INT8), case.updated()["v"].view(INT8))


@st.composite
def cases(draw):
    single = draw(st.booleans())
    new = st.just(1) if single else st.integers(1, 20)
    kv_heads = draw(st.integers(1, 2))
    width = draw(st.sampled_from([4, 8, 16, 20]))
    pool = draw(st.sampled_from([torch.float32, HALF, INT8, FP8]))
    return Case(
        draw(st.lists(st.tuples(st.integers(0, 90), new), min_size=1, max_size=3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        width=width,
        block=draw(st.sampled_from([16, 32, 64, 5])),
        rotary=draw(st.sampled_from([0, 2, width])),
        interleaved=draw(st.booleans()),
        alibi=draw(st.booleans()),
        window=draw(st.sampled_from([-1, 0, 17])),
        dtype=HALF if pool is HALF else draw(st.sampled_from([torch.float32, HALF])),
        k_pool=pool,
        v_pool=pool,
        zeros=pool is INT8 and draw(st.booleans()),
        scale_heads=draw(st.booleans()),
        padding=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 9)),
    )


@settings(max_examples=20)
@given(cases())
def test_any_step(case):
    case.check()


def test_work_items_cover_chunks():
    spans = [Span(0, 0, 1, 500), Span(2, 1, 3 + TILE, 7)]
    assert work_items(spans).tolist() == [[0, 0, 1, 500], [2, 1 + TILE, 2, 7 + TILE], [2, 1, TILE, 7]]
    assert work_items([]).shape == (0, 4)


def test_addresses_of_a_step():
    case = Case(CHUNKS)
    addresses = Addresses.of(case.step, 16, "cpu")
    assert (addresses.longest, addresses.decodes, addresses.block) == (39, False, 16)
    assert addresses.queries is not None and addresses.queries[:, :2].tolist() == [[2, 8], [0, 0]]
    assert addresses.singles is not None and addresses.singles.tolist() == [7]
    assert Addresses.of(Case([(5, 7), (0, 2)]).step, 16, "cpu").singles is None
    decodes = Addresses.of(Case(DECODES).step, 16, "cpu")
    assert decodes.decodes and decodes.queries is None


def test_chunks_need_work_items():
    x = torch.zeros(2, 16)
    step = Addresses(torch.zeros(2), torch.zeros(2), torch.zeros(1, 1), 16, 2, False)
    with pytest.raises(ValueError, match="work items"):
        attend(x, x, x, torch.zeros(1, 16, 1, 16), torch.zeros(1, 16, 1, 16), step, AttentionForm(1, 1, 16, 1.0))


@pytest.mark.parametrize("capability", ["8 0", "9 0"])
def test_kernels_compile_for_a_gpu(capability):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", compiled_attention.__name__, *capability.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["3", "3", "3", "2"]


@pytest.mark.parametrize(
    "options",
    [
        {"rotary": 8, "dtype": HALF, "k_pool": HALF, "v_pool": HALF},
        {"heads": 4, "alibi": True},
        {"heads": 4, "kv_heads": 2, "window": 9, "k_pool": INT8, "v_pool": INT8, "rotary": 4, "interleaved": True},
        {"k_pool": FP8, "v_pool": FP8, "dtype": HALF, "scale_heads": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("capacity", [48, 512], ids=["short", "shared by programs"])
def test_caches_may_have_a_row_for_each_sequence_with_its_heads_in_front(options, capacity):
    """The last row is padding: its position is beyond the cache, of which nothing is written then."""
    case = Case([(5, 1), (0, 1), (40, 1)], padding=1, **options)
    kv_heads, width, tables = case.kv_heads, case.width, case.step.block_tables
    caches = {}
    for name, pool in case.pools.items():
        caches[name] = torch.zeros(4, kv_heads, capacity, width, device=DEVICE).to(pool.dtype)
        for row, (past, _) in enumerate(case.sequences):
            kept = pool[tables[row].long()].flatten(0, 1)[:past]
            caches[name].view(torch.int8)[row, :, :past] = kept.transpose(0, 1).contiguous().view(torch.int8).to(DEVICE)
    positions = torch.tensor([5, 0, 40, capacity], dtype=torch.int32, device=DEVICE)
    rows = torch.arange(4, dtype=torch.int32, device=DEVICE)[:, None]
    q, k, v = (each.to(DEVICE) for each in (case.q, case.k, case.v))
    context = torch.full((4, case.heads * width), float("nan"), dtype=case.dtype, device=DEVICE)
    before = {name: cache.clone() for name, cache in caches.items()}
    form = AttentionForm(case.heads, kv_heads, width, width**-0.5, case.window)
    rotary = Rotary(case.cos.to(DEVICE), case.sin.to(DEVICE), case.interleaved) if case.rotary else None
    slopes = None if case.slopes is None else case.slopes.to(DEVICE)
    scales = CacheScales(*(case.scales[name].to(DEVICE) for name in "kv")) if case.k_pool in (INT8, FP8) else None
    attend_rows(
        q, k, v, caches["k"], caches["v"], positions, rows, form, context, rotary, slopes, scales, workspace=Workspace()
    )
    _, pools = case.computed()
    assert (context[:3].cpu().float() - case.context(pools)).abs().max() <= case.bound(pools)
    assert not context[3].any()
    for name, pool in pools.items():
        for row, (past_tokens, _) in enumerate(case.sequences):
            written = pool[tables[row].long()].flatten(0, 1)[past_tokens]
            before[name].view(torch.int8)[row, :, past_tokens] = written.view(torch.int8).to(DEVICE)
        assert torch.equal(caches[name].view(torch.int8), before[name].view(torch.int8))
