"""The ops of the IR as methods of a builder, for type checkers and editors. Generated: see tools/op_methods.py.

Nothing here exists at run time, when `Builder` finds a method for every op that is registered, those of plug-ins too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.ir.dims import Dim
    from compiler.ir.dtypes import DType
    from compiler.ir.op import Value
    from compiler.ir.tensor_ref import TensorRef


class OpMethods:
    """One method for each op: operands by position, then attributes and `name`, or `names` of several results."""

    if TYPE_CHECKING:

        def add(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a + b`."""

        def sub(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a - b`."""

        def mul(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a * b`."""

        def div(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a / b`, floating-point only."""

        def less(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a < b`."""

        def less_equal(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a <= b`."""

        def logical_and(self, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a and b` of bools."""

        def where(self, condition: Value, a: Value, b: Value, /, *, name: str | None = None) -> Value:
            """`a` where `condition` holds, else `b`."""

        def scale(self, x: Value, /, *, factor: float, name: str | None = None) -> Value:
            """`x * factor`."""

        def clamp(self, x: Value, /, *, min: float, max: float, name: str | None = None) -> Value:
            """`x` limited to `[min, max]`."""

        def cast(self, x: Value, /, *, dtype: DType, name: str | None = None) -> Value:
            """`x` in another element type: to a float, round to nearest even; float to integer, toward zero."""

        def relu(self, x: Value, /, *, name: str | None = None) -> Value:
            """`max(x, 0)`."""

        def gelu(self, x: Value, /, *, tanh: bool = False, name: str | None = None) -> Value:
            """`x * Phi(x)`, Phi the normal distribution function; with `tanh`, its approximation (Hendrycks & Gimpel, 2016)."""

        def silu(self, x: Value, /, *, name: str | None = None) -> Value:
            """`x * sigmoid(x)`."""

        def sigmoid(self, x: Value, /, *, name: str | None = None) -> Value:
            """`1 / (1 + exp(-x))`."""

        def tanh(self, x: Value, /, *, name: str | None = None) -> Value:
            """Hyperbolic tangent."""

        def cos(self, x: Value, /, *, name: str | None = None) -> Value:
            """Cosine of radians."""

        def sin(self, x: Value, /, *, name: str | None = None) -> Value:
            """Sine of radians."""

        def linear(self, x: Value, weight: Value, bias: Value | None = None, /, *, name: str | None = None) -> Value:
            """`x @ weight.T + bias` for `x [..., K]`, `weight [N, K]`, `bias [N]`."""

        def matmul(self, a: Value, b: Value, /, *, transpose_b: bool = False, name: str | None = None) -> Value:
            """`a @ b` for `a [..., M, K]` and `b [..., K, N]` (`[..., N, K]` with `transpose_b`); leading dims broadcast."""

        def softmax(self, x: Value, /, *, axis: int = -1, name: str | None = None) -> Value:
            """`exp(x - max) / sum(exp(x - max))` along `axis`."""

        def layer_norm(
            self,
            x: Value,
            weight: Value | None = None,
            bias: Value | None = None,
            /,
            *,
            eps: float = 1e-05,
            name: str | None = None,
        ) -> Value:
            """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension (Ba et al., 2016)."""

        def rms_norm(
            self, x: Value, weight: Value | None = None, /, *, eps: float = 1e-05, name: str | None = None
        ) -> Value:
            """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang & Sennrich, 2019)."""

        def rotary(
            self, x: Value, cos: Value, sin: Value, /, *, interleaved: bool = False, name: str | None = None
        ) -> Value:
            """Rotary position embedding (Su et al., 2021) of `x [B, heads, S, D]`, with `cos` and `sin` `f32[B, S, R/2]`.

            The first R of the D dims turn, the others pass. Pair `i` is `(x[i], x[i + R/2])`, or with `interleaved`
            `(x[2i], x[2i+1])`; it becomes `(a cos - b sin, b cos + a sin)`.
            """

        def attention(
            self,
            q: Value,
            k: Value,
            v: Value,
            mask: Value,
            bias: Value | None = None,
            /,
            *,
            scale: float = 1.0,
            rounded: bool = False,
            name: str | None = None,
        ) -> Value:
            """`softmax(q @ k.T * scale + bias, where mask holds) @ v`, head by head (Vaswani et al., 2017).

            `q [B, heads, S, D]`; `k [B, kv_heads, C, D]` and `v [B, kv_heads, C, E]`, where query head `h` reads key head
            `h // (heads / kv_heads)` (Ainslie et al., 2023); the bool `mask` and the `bias` broadcast to `[B, heads, S, C]`.
            A query that the mask hides everything from gives NaN.

            Scores, softmax and probabilities stay in float32 or better; only the context is rounded, to the element type of
            `q`. With `rounded`, five values are rounded to that type one after the other, as if each were the result of an op:
            the product, the product times `scale`, its sum with `bias`, the probabilities, the context. That is what the
            primitives compute, and 16-bit kernels; targets may keep more bits than `rounded` asks for.
            """

        def kv_update(self, cache: Value, new: Value, at: Value, count: Value, /, *, name: str | None = None) -> Value:
            """The next state of a cache: `cache[b, :, at[b] + s] = new[b, :, s]` for `s < count[b]`.

            `cache [B, heads, capacity, D]`, `new [B, heads, S, D]`, `at` and `count` `i32[B]`. The positions must lie within
            the capacity. A cache may be quantized: it has the type of what is written.
            """

        def paged_kv_update(
            self, pool: Value, new: Value, positions: Value, rows: Value, tables: Value, /, *, name: str | None = None
        ) -> Value:
            """The next state of a pool of blocks: `pool[tables[rows[t], p // block], p % block] = new[0, :, t]`.

            `pool [N, block, heads, D]`, `new [1, heads, T, D]`; `p` is `positions[t]`, the place of token `t` in its sequence.
            `positions` and `rows` are `i32[T]`, `tables` is `i32[B, M]`: a row of it has the blocks of a sequence. A pool may
            be quantized: it has the type of what is written.
            """

        def paged_attention(
            self,
            q: Value,
            k: Value,
            v: Value,
            positions: Value,
            rows: Value,
            tables: Value,
            slopes: Value | None = None,
            /,
            *,
            scale: float = 1.0,
            window: int = -1,
            rounded: bool = False,
            name: str | None = None,
        ) -> Value:
            """The `attention` of each token over the tokens of its own sequence, up to itself, which pools of blocks hold.

            `q [1, heads, T, D]`; the pools are `k [N, block, kv_heads, D]` and `v [N, block, kv_heads, E]`. Token `t` is in the
            sequence whose blocks `tables[rows[t]]` lists, at `positions[t]`; it sees the positions from 0 to its own, or with
            a `window` of 0 or more only the last `window` of them and its own. With `slopes` `f32[heads, 1, 1]`, the bias of a
            score is the head's slope times the position seen less the token's own (ALiBi; Press et al., 2022), rounded to the
            element type of `q`.

            Heads, `scale`, `rounded` and what is rounded are those of `attention`.
            """

        def shard(self, x: Value, /, *, axis: int, parts: int, each: int = 1, name: str | None = None) -> Value:
            """One of `parts` equal shards of `x` along `axis`: rank `r` of a stage has shard `r // each % parts`.

            `each` ranks in a row have the same shard. Of a constant each rank stores its shard only.
            """

        def all_reduce(self, x: Value, /, *, parts: int, name: str | None = None) -> Value:
            """The sum of `x` over the `parts` ranks of a stage, on each of them; rounded once."""

        def all_max(self, x: Value, /, *, parts: int, name: str | None = None) -> Value:
            """The largest `x` over the `parts` ranks of a stage, element by element, on each of them."""

        def all_gather(self, x: Value, /, *, axis: int, parts: int, name: str | None = None) -> Value:
            """The `x` of the `parts` ranks of a stage one after the other along `axis`, on each of them."""

        def transfer(self, x: Value, /, *, stage: int, name: str | None = None) -> Value:
            """`x`, from here on in `stage`: each rank sends it to the rank of that stage that has its place.

            What is computed from it is computed there. Whatever depends on no transfer belongs to stage 0, and is computed
            again in every other stage that uses it.
            """

        def quantize(
            self, x: Value, scale: Value, zero: Value | None = None, /, *, dtype: DType, name: str | None = None
        ) -> Value:
            """`x / scale + zero` in the nearest value of `dtype` (i8, i4 or f8e4m3), ties to even, cut to its range.

            The quotient is `x * (1 / scale)`, in float32 whatever the types are. The range is -128 to 127, -8 to 7, or -448 to
            448. Scales are positive and finite; NaN becomes 0 in an integer type.
            """

        def dequantize(
            self, q: Value, scale: Value, zero: Value | None = None, /, *, dtype: DType, name: str | None = None
        ) -> Value:
            """`(q - zero) * scale`, rounded once, to the floating-point type `dtype`."""

        def amax(self, x: Value, /, *, axis: int, name: str | None = None) -> Value:
            """The largest absolute value along `axis`, which stays as a dim of 1."""

        def reshape(self, x: Value, /, *, shape: Sequence[Dim], name: str | None = None) -> Value:
            """The same elements in row-major order under another shape."""

        def transpose(self, x: Value, /, *, perm: Sequence[int], name: str | None = None) -> Value:
            """Dimension `i` of the result is dimension `perm[i]` of `x`."""

        def slice(self, x: Value, /, *, axis: int, start: Dim, size: Dim, name: str | None = None) -> Value:
            """`size` elements along `axis`, from `start` on."""

        def split(self, x: Value, /, *, axis: int, sizes: Sequence[int], names: tuple[str, ...]) -> tuple[Value, ...]:
            """Consecutive pieces along `axis`, one for each size."""

        def concat(self, x: Value, /, *more: Value, axis: int, name: str | None = None) -> Value:
            """The operands one after the other along `axis`."""

        def broadcast(self, x: Value, /, *, shape: Sequence[Dim], name: str | None = None) -> Value:
            """`x` repeated to `shape`, by NumPy's broadcasting."""

        def embedding(self, table: Value, ids: Value, /, *, name: str | None = None) -> Value:
            """Row `ids[...]` of `table [V, H]`; the result is `[..., H]`."""

        def gather_rows(self, x: Value, rows: Value, /, *, name: str | None = None) -> Value:
            """`y[b, r] = x[b, rows[b, r]]` for `x [B, S, ...]` and `rows [B, R]`."""

        def const(self, *, data: TensorRef, name: str | None = None) -> Value:
            """The tensor of a file that `data` points at."""

        def random(
            self,
            *,
            key: str,
            dtype: DType,
            shape: Sequence[Dim],
            mean: float = 0.0,
            std: float = 0.02,
            name: str | None = None,
        ) -> Value:
            """Reproducible noise in place of a weight: each element near `mean` with standard deviation `std`, fixed by `key`.

            The values are uniform, and repeat with a long period: they stand for weights where only shapes matter.
            """

        def literal(
            self, *, dtype: DType, shape: Sequence[Dim], values: Sequence[float], name: str | None = None
        ) -> Value:
            """The given `values` in row-major order, or one value for every element."""

        def iota(self, *, size: Dim, dtype: DType = DType.i32, name: str | None = None) -> Value:
            """`0, 1, ..., size-1`."""

        def unpack(
            self,
            x: Value,
            /,
            *,
            bits: int,
            axis: int,
            signed: bool = False,
            order: Sequence[int] = (),
            name: str | None = None,
        ) -> Value:
            """The integers of `bits` bits that words along `axis` hold, as i4, or i8 if they have more than 4 bits.

            Words follow each other, each from its lowest bit up; an integer may go on in the next one. Unsigned integers are
            made signed by subtracting `2 ** (bits - 1)`; with `signed` they are two's complements already. `order` says for
            each integer of a word which element of the result it is, counted from the word's first; none stands for their own
            order.
            """

        def group_order(self, groups: Value, /, *, count: int, name: str | None = None) -> Value:
            """The order that sorts columns by their group, equal ones as they are; `groups [K]` are numbers below `count`.

            Each group has `K / count` columns.
            """

        def decode_blocks(self, x: Value, /, *, format: str, part: str = "values", name: str | None = None) -> Value:
            """What blocks of bytes along the last dim hold, as GGUF stores weights.

            `part` is `values`, in f32; or, of a format that is integers times scales, `integers` (i4, or i8 if they have more
            than 4 bits), `scales` (f32, one for each group of numbers, made positive) or, of 4 bits, `zeros` (i4), which make
            up for that: a value is `(integer - zero) * scale`.
            """
