"""Products with packed weights, against the interpreter."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compiler.ir.builder import Builder
from compiler.ir.dims import symbol
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.quant import dequantize
from compiler.ir.files import read_graph
from compiler.ir.graph import DimRange, Graph
from compiler.ir.int4 import pack_int4
from compiler.ir.interpreter import Interpreter
from compiler.ir.step import Step
from compiler.ir.torch_types import to_torch
from compiler.passes import run_pipeline
from compiler.store import write_ranks
from runtime.executors.interpreter import InterpreterExecutor
from runtime.executors.torch.executor import TorchExecutor
from runtime.executors.torch.lowering import Program
from runtime.executors.torch.packed import PackedWeight
from runtime.executors.torch.quantized import exact_integer_product, tiled_product
from tests.frontends.steps import lift_folder
from tests.runtime.executors.torch.lowered import lowered

MODELS = Path("examples/models")


def linears(dtype: DType, n: int = 48, k: int = 64) -> Graph:
    b = Builder("linears")
    b.dims["B"], b.dims["S"] = DimRange(1, 2, 4), DimRange(1, 2, 8)
    x = b.input("x", dtype, symbol("B"), symbol("S"), k)
    weight = b.random(key="w", dtype=dtype, shape=(n, k), std=1.0, name="weight")
    bias = b.random(key="b", dtype=dtype, shape=(n,), std=1.0, name="bias")
    b.output("y", b.linear(x, weight, bias, name="y"))
    return b.build()


@pytest.mark.parametrize("dtype", [DType.f32, DType.f16, DType.bf16])
@pytest.mark.parametrize(
    "options",
    ["int8", "int8:group=32", "int4", "int4:group=32", "int4:group=16", "int8:act=token", "fp8:act=off",
     "fp8:act=token", "fp8:act=off:weights=channel"],
)  # fmt: skip
def test_products_equal_the_interpreters(options: str, dtype: DType, tmp_path: Path) -> None:
    program = same(linears(dtype), options, tmp_path)
    held = list(program_tensors(program.run))
    assert held
    dense = [t for t in held if t.numel() >= 48 * 64 and t.is_floating_point()]
    assert all(t.dtype is torch.float8_e4m3fn for t in dense), "a weight was dequantized when the program was made"


@pytest.mark.parametrize("columns", [5, 33, 40, 72, 1000])
@pytest.mark.parametrize("rows", [7, 48])
def test_rows_that_fill_no_vectors(rows: int, columns: int, tmp_path: Path) -> None:
    """torch's own int8 product reads beyond the end of such rows."""
    same(linears(DType.f16, rows, columns), "int8", tmp_path)


def same(graph: Graph, options: str, folder: Path) -> Program:
    """The program of a graph of one linear, quantized, which computes what the interpreter does."""
    (emitted,) = write_ranks(run_pipeline(graph, f"quant={options}").graph, folder)
    rooted = replace(run_pipeline(emitted.graph, "cleanup").graph, root=str(folder))
    program = lowered(rooted)
    (given,) = graph.inputs
    x = torch.randn(given.type.sizes({"B": 2, "S": 3}), generator=torch.Generator().manual_seed(0))
    x = x.to(to_torch(given.type.dtype))
    expected = Interpreter(rooted)({"x": x})["y"].float()
    (found,) = program.run(x.float(), None)
    error = (found - expected).norm() / expected.norm()
    assert error < {DType.f32: 1e-5, DType.f16: 6e-3, DType.bf16: 1e-2}[given.type.dtype], f"{error:.1e}"
    return program


def program_tensors(run: object) -> list[Tensor]:
    """Every tensor that the program's function can reach by a global or one closure."""
    found = []
    for thing in run.__globals__.values():  # type: ignore[attr-defined]
        cells = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        found += [t for t in (thing, *cells) if isinstance(t, Tensor)]
    return found


@pytest.mark.parametrize(("rows", "terms", "columns"), [(1, 1, 1), (3, 1024, 7), (2, 2500, 400)])
def test_integer_products_are_exact(rows: int, terms: int, columns: int) -> None:
    """Also where every product is as large as can be: then a sum of 1,024 is the last that a float holds exactly."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-128, 128, size, generator=generator) for size in ((rows, terms), (terms, columns)))
    a[0], b[:, 0] = -128, -128
    expected = (a @ b).int()
    assert torch.equal(exact_integer_product(a.to(torch.int8), b.to(torch.int8)), expected)


@pytest.mark.parametrize("shape", [(5, 7), (300, 1000), (3, 2)])
@pytest.mark.parametrize("blocks", ["tensor", "rows", "groups", "blocks"])
@pytest.mark.parametrize("with_zero", [False, True])
@pytest.mark.parametrize("dtype", [DType.i8, DType.i4])
def test_tiles_make_the_whole(shape: tuple[int, int], blocks: str, with_zero: bool, dtype: DType) -> None:
    generator = torch.Generator().manual_seed(0)
    n, k = shape
    q = torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8)
    sizes = {
        "tensor": (1, 1),
        "rows": (n, 1),
        "groups": (n, k if k % 2 else k // 2),
        "blocks": (3 if n % 3 == 0 else 1, k),
    }
    columns = sizes[blocks]
    scale = torch.rand(columns, generator=generator)
    zero = torch.randint(-8, 8, columns, generator=generator, dtype=torch.int8) if with_zero else None
    packed = PackedWeight(pack_int4(q) if dtype is DType.i4 else q, scale, zero, shape, dtype)
    x = torch.randn(2, 3, k, generator=generator)
    expected = x @ dequantize(q, scale, zero).T
    torch.testing.assert_close(tiled_product(x, packed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", ["int8", "int4:group=32", "int8:act=token", "fp8:act=token"])
@pytest.mark.parametrize("name", ["opt-tiny", "gptj-tiny"])
def test_models_run(name: str, options: str, tmp_path: Path) -> None:
    graph = run_pipeline(lift_folder(MODELS / name), f"quant={options},merge-linears,fuse-attention,cleanup").graph
    write_ranks(graph, tmp_path)
    session = TorchExecutor.load(tmp_path / "rank0.ir", device="cpu").open(2, 16)
    other = InterpreterExecutor(read_graph(tmp_path / "rank0.ir")).open(2, 16)
    generator = torch.Generator().manual_seed(0)
    past = torch.zeros(2, dtype=torch.int32)
    for counts in ((5, 3), (1, 1), (2, 1)):
        ids = torch.randint(int(graph.facts["vocab_size"]), (2, max(counts)), generator=generator, dtype=torch.int32)
        new = torch.tensor(counts, dtype=torch.int32)
        last = (new - 1)[:, None]
        found, expected = (s.step(Step(ids, past, new, last)).float() for s in (session, other))
        assert (found - expected).norm() / expected.norm() < (0.1 if "fp8" in options else 0.03)
        past = past + new
