"""Steps over pools of blocks by the CPU kernels, and by the interpreter's evaluators in float64."""

from dataclasses import dataclass

import torch

import compiler.ir.evaluators.nn
import compiler.ir.evaluators.paged  # noqa: F401 - registers them
from compiler.ir.dtypes import DType
from compiler.ir.evaluators.core import evaluator
from compiler.ir.evaluators.quant import dequantize, quantize
from compiler.ir.packed_step import PackedStep, SequenceStep
from runtime.executors.cpu.attention import (
    AttentionForm,
    PoolScaling,
    emit_paged_append,
    emit_paged_attention,
)
from runtime.executors.cpu.program import ProgramBuilder, Size

QUANTIZED = {torch.int8: DType.i8, torch.float8_e4m3fn: DType.f8e4m3}


@dataclass
class Case:
    """A step, and what it is over. `sequences` are pairs of how many tokens are past and new."""

    sequences: list[tuple[int, int]]
    heads: int = 2
    kv_heads: int = 2
    width: int = 16
    width_v: int = 0
    block: int = 16
    alibi: bool = False
    window: int = -1
    k_type: torch.dtype = torch.float32
    v_type: torch.dtype = torch.float32
    zeros: bool = False
    scale_heads: bool = True
    sharp: float = 1.0
    seed: int = 0

    def __post_init__(self):
        self.width_v = self.width_v or self.width
        generator = torch.Generator().manual_seed(self.seed)
        needed = [-(-(past + new) // self.block) for past, new in self.sequences]
        order = torch.randperm(sum(needed) + 2, generator=generator).tolist()
        taken = iter(order)
        self.blocks = len(order)
        self.step = PackedStep.of(
            [
                SequenceStep(past, [0] * new, [next(taken) for _ in range(count)])
                for (past, new), count in zip(self.sequences, needed, strict=True)
            ]
        )
        # A view of wider rows, as a fused product gives.
        fused = torch.randn(self.step.tokens, self.heads * self.width + 24, generator=generator) * self.sharp
        self.q = fused[:, 8 : 8 + self.heads * self.width]
        self.slopes = 2.0 ** -torch.arange(1, self.heads + 1) if self.alibi else None
        count = self.kv_heads if self.scale_heads else 1
        self.scaling = [PoolScaling(), PoolScaling()]
        self.pools = []
        for at, (dtype, width) in enumerate(((self.k_type, self.width), (self.v_type, self.width_v))):
            values = torch.randn(self.blocks, self.block, self.kv_heads, width, generator=generator)
            if dtype in QUANTIZED:
                scale = (0.01 + 0.03 * torch.rand(count, generator=generator)).reshape(1, 1, -1, 1)
                zero = torch.randint(-9, 9, scale.shape, generator=generator, dtype=torch.int8) if self.zeros else None
                self.scaling[at] = PoolScaling(scale, zero)
                self.pools.append(quantize(values, scale, zero, QUANTIZED[dtype]))
            else:
                self.pools.append(values.to(dtype))

    def read(self):
        """The keys and values of the pools in float32."""
        return [
            pool.float() if by.scale is None else dequantize(pool, by.scale, by.zero)
            for pool, by in zip(self.pools, self.scaling, strict=True)
        ]

    def expected(self):
        """The context `[T, heads * width_v]` by the interpreter's evaluator, in float64."""
        q = self.q.reshape(1, -1, self.heads, self.width).transpose(1, 2).double()
        attrs = {"scale": self.width**-0.5, "window": self.window, "rounded": False}
        addresses = self.step.token_positions, self.step.token_rows, self.step.block_tables
        slopes = [] if self.slopes is None else [self.slopes[:, None, None].double()]
        pools = [pool.double() for pool in self.read()]
        context = evaluator("paged_attention").compute(attrs, {}, q, *pools, *addresses, *slopes)
        return context[0].transpose(0, 1).flatten(1)

    def bound(self):
        """How far a context may be from that in float32.

        Scores are sums of `width` products, and scaled; the bias of ALiBi is of the size of the sequence. Softmax
        turns an error of scores by d into one of the probabilities by a factor of at most exp(2 d).
        """
        unit = 2.0**-24
        k, v = (pool.abs().amax() for pool in self.read())
        q = self.q.reshape(-1, self.width).abs().sum(-1).amax()
        longest = max(past + new for past, new in self.sequences)
        score = q * k * self.width**-0.5 + (longest if self.alibi else 0)
        error = (self.width + 8) * unit * score
        return ((torch.expm1(2 * error) + (longest + 8) * unit) * v).item()

    def computed(self, library, threads):
        """What the kernel gives."""
        builder = ProgramBuilder(library)
        step, spans = self.step, self.step.span_arrays()
        columns = (spans.starts, spans.counts, spans.pasts, spans.rows)
        table = torch.stack([torch.from_numpy(each) for each in columns], 1).contiguous()
        k, v = self.pools
        i32, f32 = torch.int32, torch.float32
        out = torch.full((step.tokens, self.heads * self.width_v), torch.nan)
        memory = {"q": self.q, "spans": table, "tables": step.block_tables, "k": k, "v": v, "out": out}
        row = self.block * self.kv_heads
        operands = [
            builder.external("q", Size.TOKENS, self.q.shape[1], f32, self.q.stride(0) * 4),
            builder.external("spans", Size.SPANS, 4, i32),
            builder.external("tables", Size.SEQUENCES, step.block_tables.shape[1], i32),
            builder.external("k", Size.BLOCKS, row * self.width, k.dtype),
            builder.external("v", Size.BLOCKS, row * self.width_v, v.dtype),
            builder.external("out", Size.TOKENS, out.shape[1], f32),
        ]
        emit_paged_attention(builder, *operands, self.form())  # type: ignore[call-arg, arg-type]
        builder.build().run(self.sizes(), memory, threads)
        return out

    def form(self):
        """What the op says."""
        return AttentionForm(
            self.heads, self.kv_heads, self.width, self.width_v, self.block, self.width**-0.5, self.window,
            self.slopes, *self.scaling,
        )  # fmt: skip

    def sizes(self):
        """How many the step has of each."""
        return {
            Size.TOKENS: self.step.tokens,
            Size.SPANS: len(self.sequences),
            Size.SEQUENCES: len(self.sequences),
            Size.BLOCKS: self.blocks,
        }

    def check(self, library, threads):
        """See that the kernel computes the case."""
        expected, computed = self.expected(), self.computed(library, threads).double()
        difference, bound = (computed - expected).abs().max().item(), self.bound()
        assert difference <= bound, f"{self}: {difference} is more than {bound}"
        relative = ((computed - expected).norm() / expected.norm()).item()
        assert relative <= 1e-5 * max(1.0, self.sharp), f"{self}: the relative error is {relative}"


def appended(library, case, new, threads):
    """The pool of keys after the kernel wrote what is new `[T, heads * width]`."""
    builder, step, pool = ProgramBuilder(library), case.step, case.pools[0].clone()
    memory = {
        "new": new, "positions": step.token_positions, "rows": step.token_rows, "tables": step.block_tables,
        "pool": pool,
    }  # fmt: skip
    operands = [
        builder.external("new", Size.TOKENS, new.shape[1], new.dtype, new.stride(0) * new.itemsize),
        builder.external("positions", Size.TOKENS, 1, torch.int32),
        builder.external("rows", Size.TOKENS, 1, torch.int32),
        builder.external("tables", Size.SEQUENCES, step.block_tables.shape[1], torch.int32),
        builder.external("pool", Size.BLOCKS, new.shape[1] * case.block, pool.dtype),
    ]
    emit_paged_append(builder, *operands, case.block)  # type: ignore[call-arg, arg-type]
    builder.build().run(case.sizes(), memory, threads)
    return pool
