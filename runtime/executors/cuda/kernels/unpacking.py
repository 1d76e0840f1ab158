"""Quantized values in registers, made floating-point; device functions that other kernels call.

Each has two forms: instructions of the GPU that convert four values at once (`NATIVE`), and plain arithmetic, which
Triton's interpreter runs on a CPU. Both are exact: float16 and bfloat16 hold every integer that an int8 or int4 weight
less its zero point can be.
"""

import triton
import triton.language as tl


@triton.jit
def int8_value(q, X: tl.constexpr, NATIVE: tl.constexpr):
    """Int8 as the type `X`."""
    if NATIVE and X == tl.float16:
        # 1024 + (q + 128) has q + 128 in its low bits.
        v = tl.inline_asm_elementwise(
            """{ .reg .b32 t;
            xor.b32 t, $2, 0x80808080;
            prmt.b32 $0, t, 0x64646464, 0x4140;
            prmt.b32 $1, t, 0x64646464, 0x4342;
            mov.b32 t, 0x64806480;
            sub.f16x2 $0, $0, t;
            sub.f16x2 $1, $1, t; }""",
            "=&r,=&r,r",
            [q],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    elif NATIVE and X == tl.bfloat16:
        # 128 + the low seven bits, less 128 or, for a negative one, 256: both have their bits where they are in q.
        v = tl.inline_asm_elementwise(
            """{ .reg .b32 a, b, one;
            prmt.b32 a, $2, 0, 0x4140;
            prmt.b32 b, $2, 0, 0x4342;
            mov.b32 one, 0xbf80bf80;
            lop3.b32 $0, a, 0x007f007f, 0x43004300, 0xea;
            lop3.b32 $1, b, 0x007f007f, 0x43004300, 0xea;
            lop3.b32 a, a, 0x00800080, 0x43004300, 0xea;
            lop3.b32 b, b, 0x00800080, 0x43004300, 0xea;
            fma.rn.bf16x2 $0, a, one, $0;
            fma.rn.bf16x2 $1, b, one, $1; }""",
            "=&r,=&r,r",
            [q],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )
    else:
        v = q.to(X if NATIVE else tl.float32)
    return v


@triton.jit
def float8_value(q, X: tl.constexpr, NATIVE: tl.constexpr):
    """The bits of float8 e4m3 values as the type `X`; for float16 divided by 256, which the scales make up for.

    The bits move to where `X` has them, so that GPUs without such a type serve, too. NaN is not expected.
    """
    if X == tl.float16:
        if NATIVE:
            v = tl.inline_asm_elementwise(
                """{ .reg .b32 a, b;
                prmt.b32 a, $2, 0, 0x1404;
                prmt.b32 b, $2, 0, 0x3424;
                and.b32 $0, a, 0x80008000;
                and.b32 $1, b, 0x80008000;
                shr.u32 a, a, 1;
                shr.u32 b, b, 1;
                lop3.b32 $0, a, 0x3f803f80, $0, 0xea;
                lop3.b32 $1, b, 0x3f803f80, $1, 0xea; }""",
                "=&r,=&r,r",
                [q],
                dtype=tl.float16,
                is_pure=True,
                pack=4,
            )
        else:
            bits = (q.to(tl.uint16) & 0x80) << 8 | (q.to(tl.uint16) & 0x7F) << 7
            v = bits.to(tl.float16, bitcast=True).to(tl.float32)
    elif NATIVE and X == tl.bfloat16:
        # The same exponent bits mean 2**120 times less.
        v = tl.inline_asm_elementwise(
            """{ .reg .b32 a, b, c, zero;
            prmt.b32 a, $2, 0, 0x1404;
            prmt.b32 b, $2, 0, 0x3424;
            and.b32 $0, a, 0x80008000;
            and.b32 $1, b, 0x80008000;
            shr.u32 a, a, 4;
            shr.u32 b, b, 4;
            lop3.b32 $0, a, 0x07f007f0, $0, 0xea;
            lop3.b32 $1, b, 0x07f007f0, $1, 0xea;
            mov.b32 c, 0x7b807b80;
            mov.b32 zero, 0x80008000;
            fma.rn.bf16x2 $0, $0, c, zero;
            fma.rn.bf16x2 $1, $1, c, zero; }""",
            "=&r,=&r,r",
            [q],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )
    else:
        bits = (q.to(tl.uint32) & 0x80) << 24 | (q.to(tl.uint32) & 0x7F) << 20
        v = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2**120
    return v


@triton.jit
def int4_values(q, offset, X: tl.constexpr, NATIVE: tl.constexpr):
    """The two integers of each byte, stored with 8 added, less `offset`: the low half's and the high half's.

    `offset` is 8 and the zero point, as the type `X` (as float32 where not `NATIVE`), and broadcasts to `q`.
    """
    if NATIVE and X == tl.float16:
        # 1024 + low, and 1024 + 16 high, whose sixteenth is 64 + high.
        low, high = tl.inline_asm_elementwise(
            """{ .reg .b32 a, b, c, d;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            lop3.b32 $0, a, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $1, b, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $2, a, 0x00f000f0, 0x64006400, 0xea;
            lop3.b32 $3, b, 0x00f000f0, 0x64006400, 0xea;
            mov.b32 c, 0x64006400;
            add.f16x2 a, $5, c;
            add.f16x2 b, $6, c;
            sub.f16x2 $0, $0, a;
            sub.f16x2 $1, $1, b;
            mov.b32 d, 0xd400d400;
            sub.f16x2 a, d, $5;
            sub.f16x2 b, d, $6;
            mov.b32 c, 0x2c002c00;
            fma.rn.f16x2 $2, $2, c, a;
            fma.rn.f16x2 $3, $3, c, b; }""",
            "=&r,=&r,=&r,=&r,r,r,r",
            [q, offset],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    elif NATIVE and X == tl.bfloat16:
        # 128 + the half, less 128 + offset.
        low, high = tl.inline_asm_elementwise(
            """{ .reg .b32 a, b, c, d, one;
            prmt.b32 a, $4, 0, 0x4140;
            prmt.b32 b, $4, 0, 0x4342;
            lop3.b32 $0, a, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 $1, b, 0x000f000f, 0x43004300, 0xea;
            shr.u32 a, a, 4;
            shr.u32 b, b, 4;
            lop3.b32 $2, a, 0x000f000f, 0x43004300, 0xea;
            lop3.b32 $3, b, 0x000f000f, 0x43004300, 0xea;
            mov.b32 one, 0xbf80bf80;
            mov.b32 d, 0xc300c300;
            fma.rn.bf16x2 c, $5, one, d;
            fma.rn.bf16x2 d, $6, one, d;
            mov.b32 one, 0x3f803f80;
            fma.rn.bf16x2 $0, $0, one, c;
            fma.rn.bf16x2 $1, $1, one, d;
            fma.rn.bf16x2 $2, $2, one, c;
            fma.rn.bf16x2 $3, $3, one, d; }""",
            "=&r,=&r,=&r,=&r,r,r,r",
            [q, offset],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=4,
        )
    else:
        low = (q & 15).to(tl.float32) - offset
        high = (q >> 4).to(tl.float32) - offset
    return low, high
