"""The ops of a transformer. All accumulate in float32 or better and round once, to the element type of the result."""

from compiler.errors import GraphError
from compiler.ir.cache_layout import LINEAR
from compiler.ir.dims import shape_text
from compiler.ir.dtypes import DType
from compiler.ir.op import op
from compiler.ir.ops.check import axis_of, broadcast_shapes, floating, require, same_dtype
from compiler.ir.types import TensorType


@op
def linear(x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
    """`x @ weight.T + bias` for `x [..., K]`, `weight [N, K]`, `bias [N]`."""
    floating(x, weight)
    require(weight.rank == 2 and x.rank >= 1, f"the weight is {weight}; it must be [N, K]")
    n, k = weight.shape
    require(x.shape[-1] == k, f"x has {x.shape[-1]} features but the weight takes {k}")
    if bias is not None:
        require(bias == TensorType(x.dtype, (n,)), f"the bias is {bias}; it must be {TensorType(x.dtype, (n,))}")
    return x.with_shape(*x.shape[:-1], n)


@op
def matmul(a: TensorType, b: TensorType, *, transpose_b: bool = False) -> TensorType:
    """`a @ b` for `a [..., M, K]` and `b [..., K, N]` (`[..., N, K]` with `transpose_b`); leading dims broadcast."""
    floating(a, b)
    require(a.rank >= 2 and b.rank >= 2, "operands need two dimensions or more")
    k, n = (b.shape[-1], b.shape[-2]) if transpose_b else (b.shape[-2], b.shape[-1])
    require(a.shape[-1] == k, f"inner sizes differ: {a.shape[-1]} and {k}")
    return a.with_shape(*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], n)


@op
def softmax(x: TensorType, *, axis: int = -1) -> TensorType:
    """`exp(x - max) / sum(exp(x - max))` along `axis`."""
    floating(x)
    axis_of(axis, x.rank)
    return x


@op
def layer_norm(
    x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None, *, eps: float = 1e-5
) -> TensorType:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension (Ba et al., 2016)."""
    _affine_of(x, weight, bias)
    return x


@op
def rms_norm(x: TensorType, weight: TensorType | None = None, *, eps: float = 1e-5) -> TensorType:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang & Sennrich, 2019)."""
    _affine_of(x, weight)
    return x


def _affine_of(x: TensorType, *parameters: TensorType | None) -> None:
    floating(x)
    require(x.rank > 0, "x is one number; a norm is over the last of its dims")
    for parameter in parameters:
        wanted = TensorType(x.dtype, (x.shape[-1],))
        if parameter is not None and parameter != wanted:
            raise GraphError(f"a parameter is {parameter}; it must be {wanted}")


@op
def rotary(x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool = False) -> TensorType:
    """Rotary position embedding (Su et al., 2021) of `x [B, heads, S, D]`, with `cos` and `sin` `f32[B, S, R/2]`.

    The first R of the D dims turn, the others pass. Pair `i` is `(x[i], x[i + R/2])`, or with `interleaved`
    `(x[2i], x[2i+1])`; it becomes `(a cos - b sin, b cos + a sin)`.
    """
    floating(x)
    require(x.rank == 4, f"x is {x}; it must be [B, heads, S, D]")
    batch, _, length, width = x.shape
    require(
        cos == sin and cos.dtype is DType.f32 and cos.rank == 3, f"cos and sin are {cos} and {sin}, not f32[B,S,R/2]"
    )
    require(cos.shape[:2] == (batch, length), f"cos is {cos}, x is {x}: batch and length must agree")
    half = cos.shape[2]
    require(
        isinstance(half, int) and isinstance(width, int) and 2 * half <= width,
        f"{half} pairs do not fit into {width} dims a head",
    )
    return x


@op
def attention(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    mask: TensorType,
    bias: TensorType | None = None,
    *,
    scale: float = 1.0,
    rounded: bool = False,
) -> TensorType:
    """`softmax(q @ k.T * scale + bias, where mask holds) @ v`, head by head (Vaswani et al., 2017).

    `q [B, heads, S, D]`; `k [B, kv_heads, C, D]` and `v [B, kv_heads, C, E]`, where query head `h` reads key head
    `h // (heads / kv_heads)` (Ainslie et al., 2023); the bool `mask` and the `bias` broadcast to `[B, heads, S, C]`.
    A query that the mask hides everything from gives NaN.

    Scores, softmax and probabilities stay in float32 or better; only the context is rounded, to the element type of
    `q`. With `rounded`, five values are rounded to that type one after the other, as if each were the result of an op:
    the product, the product times `scale`, its sum with `bias`, the probabilities, the context. That is what the
    primitives compute, and 16-bit kernels; targets may keep more bits than `rounded` asks for.
    """
    floating(q, k, v)
    require(q.rank == k.rank == v.rank == LINEAR.RANK, "q, k and v must be [B, heads, positions, D]")
    batch, heads, length, width = q.shape
    require(k.shape[: LINEAR.WIDTH] == v.shape[: LINEAR.WIDTH], f"k is {k} but v is {v}")
    require(k.shape[LINEAR.ROW] == batch and k.shape[LINEAR.WIDTH] == width, f"q is {q} but k is {k}")
    kv_heads = k.shape[LINEAR.HEAD]
    require(
        isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0,
        f"{heads} query heads cannot share {kv_heads} key heads evenly",
    )
    scores = (batch, heads, length, k.shape[LINEAR.POSITION])
    require(mask.dtype is DType.bool, f"the mask is {mask.dtype}, not bool")
    for extra in (mask, bias):
        require(
            extra is None or broadcast_shapes(extra.shape, scores) == scores,
            f"{extra} does not fit {shape_text(scores)}",
        )
    require(bias is None or bias.dtype is q.dtype, f"the bias is {bias}; it must be {q.dtype}")
    return q.with_shape(batch, heads, length, v.shape[LINEAR.WIDTH])


@op
def kv_update(cache: TensorType, new: TensorType, at: TensorType, count: TensorType) -> TensorType:
    """The next state of a cache: `cache[b, :, at[b] + s] = new[b, :, s]` for `s < count[b]`.

    `cache [B, heads, capacity, D]`, `new [B, heads, S, D]`, `at` and `count` `i32[B]`. The positions must lie within
    the capacity. A cache may be quantized: it has the type of what is written.
    """
    same_dtype(cache, new)
    require(cache.rank == new.rank == LINEAR.RANK, "cache and new must be [B, heads, positions, D]")
    same = [cache.shape[axis] == new.shape[axis] for axis in (LINEAR.ROW, LINEAR.HEAD, LINEAR.WIDTH)]
    require(all(same), f"cache {cache} and new {new} must agree in batch, heads and width")
    wanted = TensorType(DType.i32, (cache.shape[LINEAR.ROW],))
    require(at == wanted and count == wanted, f"at and count are {at} and {count}; they must be {wanted}")
    return cache
