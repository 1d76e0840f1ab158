"""Quantized engines of every family, recipe, target and number of ranks compute what the interpreter does.

A spread: `python -m benchmarks.quant_matrix` tries all of it.
"""

import pytest

from runtime.generation.tokenizer import Tokenizer
from tests.paths import MODELS
from tests.runtime.quantized_engines import EXECUTORS, Oracle, compiled, imported, loaded, quantized_graph

pytest.importorskip("tensorrt_rtx")
TEXT = "The function returns a list of the names that are in use, or nothing if the file cannot be read."


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def disagreements(source, tokenizer, passes, dtype, ranks, folder, *, built=False):
    """The executors that compute something else, with what they computed."""
    ids = Tokenizer(tokenizer).encode(TEXT)
    oracle = Oracle(quantized_graph(source, passes, dtype), dtype, [ids[:n] for n in (1, 2, 3, 5, 20)], 8)
    whole = ",".join(filter(None, (passes, f"tp={ranks}" * (ranks > 1))))
    engine = compiled(source, whole, dtype, folder / "engine", built=built)
    found = {name: oracle.compare(loaded(engine, name)) for name in EXECUTORS}
    assert all(agreement.tokens == 40 for agreement in found.values())
    return {name: agreement for name, agreement in found.items() if not agreement.holds}


@pytest.mark.parametrize(
    ("family", "passes", "dtype", "ranks"),
    [
        ("gptneox", "quant=int8,kv=int8", "float32", 2),
        ("gptj", "quant=int4:group=64:head=int8", "float32", 1),
        ("opt", "quant=awq:group=32:head=int8", "float32", 2),
        ("mpt", "quant=gptq:group=32,kv=fp8:scale=tensor", "float32", 2),
        ("gptneox", "quant=smoothquant", "float32", 2),
        ("gptj", "quant=fp8,kv=fp8", "float32", 1),
        ("opt", "quant=fp8:act=token", "float32", 2),
        ("opt", "quant=int8:act=static", "float16", 1),
        ("mpt", "quant=auto:bits=6", "float16", 2),
        ("gptj", "quant=smoothquant:act=static,kv=int8", "float16", 2),
    ],
)
def test_recipes(family, passes, dtype, ranks, tmp_path):
    model = MODELS / f"{family}-tiny"
    built = passes == "quant=smoothquant"  # so that a real engine has what ranks take the largest of
    assert not disagreements(model, model / "tokenizer.json", passes, dtype, ranks, tmp_path, built=built)


@pytest.mark.parametrize(
    ("family", "kind", "ranks"), [("gptneox", "gptq-order", 2), ("mpt", "awq", 2), ("opt", "pack-quantized", 1)]
)
def test_checkpoints_of_other_tools(family, kind, ranks, tmp_path):
    source = imported(MODELS / f"{family}-tiny", kind, tmp_path / "checkpoint")
    assert not disagreements(source, source / "tokenizer.json", "", "float32", ranks, tmp_path)
