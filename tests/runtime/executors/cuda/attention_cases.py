"""Steps over pools of blocks, and what attention over them is by the interpreter's evaluators."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

import compiler.ir.evaluators.nn
import compiler.ir.evaluators.paged  # noqa: F401 - registers them
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.ir.evaluators.quant import dequantize, quantize
from compiler.ir.packed_step import PackedStep, SequenceStep
from runtime.executors.cuda.kernels.addresses import Addresses
from runtime.executors.cuda.kernels.attention import AttentionForm, CacheScales, Rotary, attend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUANTIZED = {torch.int8: DType.i8, torch.float8_e4m3fn: DType.f8e4m3}


@dataclass
class Case:
    """A step, and what it is over. `sequences` are pairs of how many tokens are past and new."""

    sequences: list[tuple[int, int]]
    heads: int = 2
    kv_heads: int = 2
    width: int = 16
    block: int = 16
    rotary: int = 0
    interleaved: bool = False
    alibi: bool = False
    window: int = -1
    dtype: torch.dtype = torch.float32
    k_pool: torch.dtype = torch.float32
    v_pool: torch.dtype = torch.float32
    zeros: bool = False
    scale_heads: bool = True
    padding: int = 0
    device: str = DEVICE
    seed: int = 0

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator)

        needed = [-(-(past + new) // self.block) for past, new in self.sequences]
        order = torch.randperm(sum(needed) + 2, generator=generator).tolist()
        taken = iter(order)
        self.step = PackedStep.of(
            [
                SequenceStep(past, [0] * new, [next(taken) for _ in range(count)])
                for (past, new), count in zip(self.sequences, needed, strict=True)
            ]
        )
        tokens, (heads, kv_heads, width) = self.step.tokens, (self.heads, self.kv_heads, self.width)
        fused = normal(tokens + self.padding, (heads + 2 * kv_heads) * width + 16).to(self.dtype)
        self.q, self.k, self.v, _ = fused.split([heads * width, kv_heads * width, kv_heads * width, 16], -1)
        angles = normal(tokens + self.padding, self.rotary // 2) * 3
        self.cos, self.sin = angles.cos(), angles.sin()
        self.slopes = 2.0 ** -torch.arange(1, heads + 1) if self.alibi else None
        count = kv_heads if self.scale_heads else 1
        self.scales = {name: 0.01 + 0.03 * torch.rand(count, generator=generator) for name in "kv"}
        self.zero = {
            name: torch.randint(-9, 9, (count,), generator=generator, dtype=torch.int8) if self.zeros else None
            for name in "kv"
        }
        shape = (len(order), self.block, kv_heads, width)
        self.pools = {name: self._stored(normal(*shape), name, 2) for name in "kv"}

    def _stored(self, x, name, axis):
        dtype = self.k_pool if name == "k" else self.v_pool
        if dtype not in QUANTIZED:
            return x.to(dtype)
        scale, zero = self._parameters(x, name, axis)
        return quantize(x, scale, zero, QUANTIZED[dtype])

    def _parameters(self, x, name, axis):
        shape = [1] * x.dim()
        shape[axis] = -1
        zero = self.zero[name]
        return self.scales[name].reshape(shape), None if zero is None else zero.reshape(shape)

    def _read(self, pool, name):
        return pool.float() if pool.dtype not in QUANTIZED else dequantize(pool, *self._parameters(pool, name, 2))

    def _heads(self, x, heads):
        return x[: self.step.tokens].float().reshape(1, self.step.tokens, heads, self.width).transpose(1, 2)

    def _rotated(self, x, errors=0):
        """Turned heads, less or more by so many times what float32 may err: a rounding of each product and the sum."""
        if not self.rotary:
            return x
        cos, sin = (each[None, : self.step.tokens].double() for each in (self.cos, self.sin))
        turned = evaluator("rotary").compute({"interleaved": self.interleaved}, {}, x.double(), cos, sin)
        turned += errors * 4 * 2.0**-24 * x.double().abs().amax(-1, keepdim=True)
        return turned.float().to(self.dtype).float()

    @property
    def addresses(self):
        return self.step.token_positions, self.step.token_rows, self.step.block_tables

    def updated(self, errors=0):
        """The pools after the step; rotated keys, which may err, are rounded before they are stored."""
        new = {"k": self._rotated(self._heads(self.k, self.kv_heads), errors), "v": self._heads(self.v, self.kv_heads)}
        update = evaluator("paged_kv_update").compute
        return {
            name: update({}, {}, self.pools[name], self._stored(new[name], name, 1), *self.addresses) for name in "kv"
        }

    def context(self, pools):
        """The context `[T, heads * width]` in float32 over pools that have the step's own keys and values."""
        q = self._rotated(self._heads(self.q, self.heads))
        read = [self._read(pools[name], name) for name in "kv"]
        attrs = {"scale": self.width**-0.5, "window": self.window, "rounded": False}
        slopes = [] if self.slopes is None else [self.slopes[:, None, None]]
        context = evaluator("paged_attention").compute(attrs, {}, q, *read, *self.addresses, *slopes)
        return context[0].transpose(0, 1).flatten(1)

    def bound(self, pools):
        """How far a context may be from that in float32.

        Scores are sums of `width` products in float32; softmax turns an error of them by d into one of the
        probabilities by a factor of at most exp(2 d). In 16 bits, a rotated query may be rounded otherwise, and
        probabilities and the context are rounded. Tensor cores keep some bits less than float32 of a sum.
        """
        unit, step = 2.0**-22 if self.device == "cuda" else 2.0**-24, torch.finfo(self.dtype).eps
        k, v = (self._read(pools[name], name).abs().amax() for name in "kv")
        q = self._heads(self.q, self.heads).abs().sum(-1).amax() * 2**0.5
        longest = max(past + new for past, new in self.sequences)
        score = q * k * self.width**-0.5 + (longest if self.alibi else 0)
        error = (self.width + 8) * unit * score + (step * score if self.rotary and step > unit else 0)
        return (torch.expm1(2 * error) + (longest + 8) * unit + 2 * step) * v

    def check(self, **options):
        """See that `attend` computes the case: what it writes, and the context over what it wrote."""
        context, pools = self.computed(**options)
        # Storing is monotonic: what is stored lies between what the least and the largest key would be stored as.
        least, largest = self.updated(-1), self.updated(1)
        for name in "kv":
            written = pools[name].float()
            assert ((least[name].float() <= written) & (written <= largest[name].float())).all(), name
        tokens = self.step.tokens
        difference = (context[:tokens].float() - self.context(pools)).abs().max().item()
        bound = self.bound(pools).item()
        assert difference <= bound, f"{self}: {difference} is more than {bound}"
        exact = self.context(pools)
        relative = ((context[:tokens].float() - exact).norm() / exact.norm()).item()
        assert relative <= max(2 * torch.finfo(self.dtype).eps, 1e-5), f"{self}: the relative error is {relative}"
        assert not context[tokens:].any()

    def computed(self, **options):
        """What `attend` gives: the context and the pools afterwards, on the CPU."""

        def there(x):
            return None if x is None else x.to(self.device)

        addresses = Addresses.of(self.step, self.block, self.device)
        if self.padding:
            pad = torch.full((self.padding,), -1, dtype=torch.int32, device=self.device)
            positions, rows = (torch.cat([each, pad]) for each in (addresses.positions, addresses.rows))
            addresses = replace(addresses, positions=positions, rows=rows)
        fused = torch.empty(self.q.shape[0], self.q.stride(0), dtype=self.dtype, device=self.device)
        sizes = [self.q.shape[1], self.k.shape[1], self.v.shape[1], 16]
        q, k, v, _ = fused.split(sizes, -1)
        for to, x in zip((q, k, v), (self.q, self.k, self.v), strict=True):
            to.copy_(x)
        pools = {name: there(pool.clone()) for name, pool in self.pools.items()}
        scales = CacheScales(*(there(self.scales[name]) for name in "kv"), *(there(self.zero[name]) for name in "kv"))
        quantized = self.k_pool in QUANTIZED or self.v_pool in QUANTIZED
        context = attend(
            q, k, v, pools["k"], pools["v"], addresses,
            AttentionForm(self.heads, self.kv_heads, self.width, self.width**-0.5, self.window),
            Rotary(there(self.cos), there(self.sin), self.interleaved) if self.rotary else None,
            there(self.slopes),
            scales if quantized else None,
            **options,
        )  # fmt: skip
        return context.cpu(), {name: pool.cpu() for name, pool in pools.items()}


class Options(NamedTuple):
    """A case that is not made yet, which processes can send each other."""

    sequences: list[tuple[int, int]]
    options: dict[str, Any]

    def make(self):
        return Case(self.sequences, **self.options)


def gpu_cases():
    """Cases of sizes as models have, for a GPU."""
    return [
        Options(sequences, options)
        for sequences in (
            [(700, 1), (0, 1), (63, 1), (64, 1), (300, 1)],
            [(333, 1), (0, 300), (90, 70), (700, 1), (5, 128)],
        )
        for options in [*_sizes(), *_features()]
    ]


def _sizes():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for width, heads, kv_heads in ((64, 4, 4), (80, 4, 2), (96, 3, 3), (128, 8, 1), (256, 2, 2), (256, 4, 2)):
            size: dict[str, Any] = {"width": width, "heads": heads, "kv_heads": kv_heads, "block": 64}
            yield {**size, "dtype": dtype, "k_pool": dtype, "v_pool": dtype, "rotary": 32, "padding": 3}
            if heads == 4:
                for pool in QUANTIZED:
                    yield {**size, "dtype": dtype, "k_pool": pool, "v_pool": pool, "rotary": 32, "interleaved": True}


def _features():
    half, int8, fp8 = torch.float16, torch.int8, torch.float8_e4m3fn
    for kv_heads in (1, 4):
        common: dict[str, Any] = {"dtype": half, "k_pool": half, "v_pool": half, "width": 128, "heads": 4}
        common["kv_heads"] = kv_heads
        for block in (16, 32, 128, 256, 48):
            yield {**common, "block": block, "rotary": 128}
        yield {**common, "alibi": True}
        yield {**common, "window": 100, "block": 64}
        yield {**common, "window": 31, "alibi": True, "block": 16}
        yield {**common, "k_pool": int8, "v_pool": int8, "zeros": True, "scale_heads": False}
        yield {**common, "v_pool": fp8}
        yield {**common, "width": 20, "rotary": 6}
