"""Caches are read and written by their layout: new positions, views, copied rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import compiler.ir.evaluators.nn  # noqa: F401 - registers them
from compiler.ir.cache_layout import LINEAR, cache_name, layer_of_cache, place_of_cache
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.ir.types import TensorType

DTYPES = [torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn]
CPU = torch.device("cpu")


def some_cache(rows, capacity, dtype, heads=2, width=4, seed=0):
    """A cache of small integers, which every type can hold."""
    generator = torch.Generator().manual_seed(seed)
    shape = LINEAR.shaped(rows, heads, capacity, width)
    return torch.randint(-9, 9, shape, generator=generator).to(torch.int8).to(dtype)


def same(found, expected):
    assert torch.equal(found.float(), expected.float())


def test_shapes_have_the_dims_of_a_step() -> None:
    b, s, c = map(symbol, "BSC")
    assert LINEAR.dims(4, 32) == (b, 4, c, 32)
    assert LINEAR.new_dims(4, 32) == (b, 4, s, 32)
    assert LINEAR.resized((7, 4, 99, 32), 1, 128) == (1, 4, 128, 32)
    assert LINEAR.text == "[B,heads,C,width]"
    assert LINEAR.fits(TensorType(DType.f16, LINEAR.dims(4, 32)))
    for shape in ((b, 4, s, 32), (b, c, 4, 32), (b, c, 32), (b, 4, c, 32, 1)):
        assert not LINEAR.fits(TensorType(DType.f16, shape))


def test_names_say_the_layer() -> None:
    assert cache_name(3, "k") == "cache.3.k"
    assert layer_of_cache("cache.3.k") == layer_of_cache("cache.3.v") != layer_of_cache("cache.31.v")


def test_a_view_shares_the_memory_of_its_rows_and_positions() -> None:
    cache = torch.zeros(LINEAR.shaped(3, 2, 8, 4))
    LINEAR.view(cache, slice(1, 3), 5).fill_(1)
    LINEAR.view(cache, slice(0, 1)).fill_(2)
    assert cache.sum((1, 3)).tolist() == [[16.0] * 8, [8.0] * 5 + [0.0] * 3, [8.0] * 5 + [0.0] * 3]


def test_values_along_some_axes_broadcast() -> None:
    by_head, by_place = torch.arange(3), torch.arange(10).view(2, 5)
    assert LINEAR.along(by_head, LINEAR.HEAD).shape == (1, 3, 1, 1)
    assert LINEAR.along(by_place, LINEAR.ROW, LINEAR.POSITION).shape == (2, 1, 5, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("past", "new"), [([2, 2], [3, 3]), ([0, 4], [3, 1]), ([1, 1], [3, 2]), ([5, 0], [0, 3])])
def test_appended_positions_are_those_of_kv_update(past, new, dtype) -> None:
    cache, added = some_cache(2, 8, dtype), some_cache(2, 3, dtype, seed=1)
    meaning = evaluator("kv_update").compute({}, {}, cache, added, torch.tensor(past), torch.tensor(new))
    appends = LINEAR.appends(past, new, 3, CPU)
    assert (appends.start is not None) == (past == [2, 2])
    view = LINEAR.view(cache, slice(0, 2))
    assert LINEAR.append(view, added, appends) is view
    same(cache, meaning)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_device_all_positions_are_appended_that_fit(length, dtype) -> None:
    cache, new = some_cache(3, 5, dtype), some_cache(3, length, dtype, seed=1)
    past = torch.tensor([0, 4, 5], dtype=torch.int32)
    expected = cache.float()
    for row, start in enumerate(past.tolist()):
        fitting = min(length, 5 - start)
        expected[row, :, start : start + fitting] = new[row, :, :fitting].float()
    LINEAR.append_on_device(cache, new, past)
    same(cache, expected)


@st.composite
def copies(draw, rows=6):
    """Sources, some of them several times, and destinations, each once: in any order, permutations among them."""
    destinations = draw(st.permutations(range(rows)).flatmap(lambda p: st.integers(0, rows).map(lambda n: p[:n])))
    return [draw(st.integers(0, rows - 1)) for _ in destinations], list(destinations)


@given(copies(), st.sampled_from(DTYPES), st.sampled_from([None, 0, 3]))
def test_rows_are_copied_all_at_once(drawn, dtype, length) -> None:
    sources, destinations = drawn
    caches = [some_cache(6, 5, dtype), some_cache(6, 5, torch.float16, heads=3, seed=1)]
    before = [cache.clone() for cache in caches]
    LINEAR.copy_rows(caches, sources, destinations, length)
    for cache, old in zip(caches, before, strict=True):
        expected = old.clone()
        for source, destination in zip(sources, destinations, strict=True):
            expected[destination, :, :length] = old[source, :, :length]
        same(cache, expected)


class Allocated(TorchDispatchMode):
    """Counts the bytes of the memory that is made for results, whether it is freed again or not."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "clone" in str(func) or "index_select" in str(func):
            self.bytes += args[0].nbytes
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("sources", "destinations", "kept"),
    [([5, 5, 9], [1, 2, 3], 0), ([1, 2], [2, 1], 2), ([0, 0, 1, 2], [0, 1, 2, 3], 3)],
)
def test_only_rows_that_are_overwritten_are_kept_meanwhile(sources, destinations, kept) -> None:
    caches = [torch.zeros(LINEAR.shaped(64, 2, 100, 8)) for _ in range(3)]
    with Allocated() as allocated:
        LINEAR.copy_rows(caches, sources, destinations, 50)
    assert allocated.bytes == len(caches) * kept * caches[0][0].nbytes // 2


def test_caches_of_inference_mode_can_be_copied_outside_of_it() -> None:
    with torch.inference_mode():
        cache = some_cache(2, 3, torch.float32)
    LINEAR.copy_rows([cache], [1], [0])
    same(cache[0], cache[1])


def test_a_caches_name_says_its_layer_and_what_it_holds():
    assert place_of_cache(cache_name(12, "k")) == (12, "k")
    assert place_of_cache(cache_name(0, "v")) == (0, "v")
    assert [place_of_cache(name) for name in ("cache.1.q", "cache.k", "mine.1.k", "cache.1.k.scale")] == [None] * 4
