"""The ops of packed steps, whose caches are pools of blocks. All accumulate in float32 or better and round once."""

from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import Dim
from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import floating, require, same_dtype
from compiler.ir.paged_layout import ONE_ROW, PagedLayout
from compiler.ir.types import TensorType


@op
def paged_kv_update(
    pool: TensorType, new: TensorType, positions: TensorType, rows: TensorType, tables: TensorType
) -> TensorType:
    """The next state of a pool of blocks: `pool[tables[rows[t], p // block], p % block] = new[0, :, t]`.

    `pool [N, block, heads, D]`, `new [1, heads, T, D]`; `p` is `positions[t]`, the place of token `t` in its sequence.
    `positions` and `rows` are `i32[T]`, `tables` is `i32[B, M]`: a row of it has the blocks of a sequence. A pool may
    be quantized: it has the type of what is written.
    """
    same_dtype(pool, new)
    require(pool.rank == PagedLayout.RANK, f"the pool is {pool}, not [N, block, heads, D]")
    require(new.rank == LINEAR.RANK and new.shape[LINEAR.ROW] == ONE_ROW, f"new is {new}, not [1, heads, T, D]")
    same = [
        pool.shape[PagedLayout.HEAD] == new.shape[LINEAR.HEAD],
        pool.shape[PagedLayout.WIDTH] == new.shape[LINEAR.WIDTH],
    ]
    require(all(same), f"pool {pool} and new {new} must agree in heads and width")
    _addressed(new.shape[LINEAR.POSITION], positions, rows, tables)
    return pool


@op
def paged_attention(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    positions: TensorType,
    rows: TensorType,
    tables: TensorType,
    slopes: TensorType | None = None,
    *,
    scale: float = 1.0,
    window: int = -1,
    rounded: bool = False,
) -> TensorType:
    """The `attention` of each token over the tokens of its own sequence, up to itself, which pools of blocks hold.

    `q [1, heads, T, D]`; the pools are `k [N, block, kv_heads, D]` and `v [N, block, kv_heads, E]`. Token `t` is in the
    sequence whose blocks `tables[rows[t]]` lists, at `positions[t]`; it sees the positions from 0 to its own, or with
    a `window` of 0 or more only the last `window` of them and its own. With `slopes` `f32[heads, 1, 1]`, the bias of a
    score is the head's slope times the position seen less the token's own (ALiBi; Press et al., 2022), rounded to the
    element type of `q`.

    Heads, `scale`, `rounded` and what is rounded are those of `attention`.
    """
    floating(q, k, v)
    require(q.rank == LINEAR.RANK and q.shape[LINEAR.ROW] == ONE_ROW, f"q is {q}, not [1, heads, T, D]")
    require(k.rank == v.rank == PagedLayout.RANK, f"k and v are {k} and {v}, not [N, block, heads, D]")
    require(k.shape[: PagedLayout.WIDTH] == v.shape[: PagedLayout.WIDTH], f"k is {k} but v is {v}")
    heads, kv_heads = q.shape[LINEAR.HEAD], k.shape[PagedLayout.HEAD]
    require(k.shape[PagedLayout.WIDTH] == q.shape[LINEAR.WIDTH], f"q is {q} but k is {k}")
    require(
        isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0,
        f"{heads} query heads cannot share {kv_heads} key heads evenly",
    )
    _addressed(q.shape[LINEAR.POSITION], positions, rows, tables)
    wanted = TensorType(DType.f32, (heads, 1, 1))
    require(slopes is None or slopes == wanted, f"the slopes are {slopes}; they must be {wanted}")
    require(window >= -1, f"the window is {window}; it is -1 for all positions, or how many back a token sees")
    return q.with_shape(*LINEAR.shaped(ONE_ROW, heads, q.shape[LINEAR.POSITION], v.shape[PagedLayout.WIDTH]))


def _addressed(tokens: Dim, positions: TensorType, rows: TensorType, tables: TensorType) -> None:
    """See that there are a position and a row for each token, and tables."""
    wanted = TensorType(DType.i32, (tokens,))
    require(positions == wanted and rows == wanted, f"positions and rows are {positions} and {rows}, not {wanted}")
    require(tables.dtype is DType.i32 and tables.rank == 2, f"the block tables are {tables}, not i32[B,M]")
