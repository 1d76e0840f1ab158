"""Quantized values in registers, made floating-point; device functions that other kernels call.

Each has two forms: instructions of the GPU that convert four values at once (`NATIVE`), and plain arithmetic, which
Triton's interpreter runs on a CPU. Both are exact: float16 and bfloat16 hold every integer that an int8 or int4 weight
less its zero point can be.
"""

import triton
import triton.language as tl

# The instructions, for the four values of a 32-bit register; of int4, for eight.
_INT8_F16 = tl.constexpr(
    """{ .reg .b32 t;
    xor.b32 t, $2, 0x80808080;
    prmt.b32 $0, t, 0x64646464, 0x4140;
    prmt.b32 $1, t, 0x64646464, 0x4342;
    mov.b32 t, 0x64806480;
    sub.f16x2 $0, $0, t;
    sub.f16x2 $1, $1, t; }"""
)
_INT8_BF16 = tl.constexpr(
    """{ .reg .b32 a, b, one;
    prmt.b32 a, $2, 0, 0x4140;
    prmt.b32 b, $2, 0, 0x4342;
    mov.b32 one, 0xbf80bf80;
    lop3.b32 $0, a, 0x007f007f, 0x43004300, 0xea;
    lop3.b32 $1, b, 0x007f007f, 0x43004300, 0xea;
    lop3.b32 a, a, 0x00800080, 0x43004300, 0xea;
    lop3.b32 b, b, 0x00800080, 0x43004300, 0xea;
    fma.rn.bf16x2 $0, a, one, $0;
    fma.rn.bf16x2 $1, b, one, $1; }"""
)
_FLOAT8_F16 = tl.constexpr(
    """{ .reg .b32 a, b;
    prmt.b32 a, $2, 0, 0x1404;
    prmt.b32 b, $2, 0, 0x3424;
    and.b32 $0, a, 0x80008000;
    and.b32 $1, b, 0x80008000;
    shr.u32 a, a, 1;
    shr.u32 b, b, 1;
    lop3.b32 $0, a, 0x3f803f80, $0, 0xea;
    lop3.b32 $1, b, 0x3f803f80, $1, 0xea; }"""
)
_FLOAT8_BF16 = tl.constexpr(
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
    fma.rn.bf16x2 $1, $1, c, zero; }"""
)
_INT4_F16 = tl.constexpr(
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
    fma.rn.f16x2 $3, $3, c, b; }"""
)
_INT4_BF16 = tl.constexpr(
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
    fma.rn.bf16x2 $3, $3, one, d; }"""
)


@triton.jit
def int8_value(q, X: tl.constexpr, NATIVE: tl.constexpr):
    """Int8 as the type `X`."""
    if NATIVE and X == tl.float16:
        # 1024 + (q + 128) has q + 128 in its low bits.
        v = tl.inline_asm_elementwise(
            _INT8_F16,
            "=&r,=&r,r",
            [q],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    elif NATIVE and X == tl.bfloat16:
        # 128 + the low seven bits, less 128 or, for a negative one, 256: both have their bits where they are in q.
        v = tl.inline_asm_elementwise(
            _INT8_BF16,
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
                _FLOAT8_F16,
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
            _FLOAT8_BF16,
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
            _INT4_F16,
            "=&r,=&r,=&r,=&r,r,r,r",
            [q, offset],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    elif NATIVE and X == tl.bfloat16:
        # 128 + the half, less 128 + offset.
        low, high = tl.inline_asm_elementwise(
            _INT4_BF16,
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


@triton.jit
def halves(word, X: tl.constexpr):
    """The two 16-bit numbers of each 32-bit word."""
    if X == tl.float16:
        low, high = tl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;", "=h,=h,r", [word], dtype=(tl.float16, tl.float16), is_pure=True, pack=1
        )
    else:
        low, high = tl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;", "=h,=h,r", [word], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=1
        )
    return low, high


@triton.jit
def word_values(word, FORM: tl.constexpr, X: tl.constexpr, NATIVE: tl.constexpr):
    """The four "int8" or "float8" values of each 32-bit word as `int8_value` and `float8_value` give them.

    Values of one word are converted by one thread, however the words are spread over threads.
    """
    if NATIVE:
        HALF: tl.constexpr = X == tl.float16
        INT8: tl.constexpr = _INT8_F16 if HALF else _INT8_BF16
        FLOAT8: tl.constexpr = _FLOAT8_F16 if HALF else _FLOAT8_BF16
        TEXT: tl.constexpr = INT8 if FORM == "int8" else FLOAT8
        front, back = tl.inline_asm_elementwise(
            TEXT, "=&r,=&r,r", [word], dtype=(tl.int32, tl.int32), is_pure=True, pack=1
        )
        v0, v1 = halves(front, X)
        v2, v3 = halves(back, X)
    else:
        v0 = _byte_value(word, 0, FORM, X)
        v1 = _byte_value(word, 8, FORM, X)
        v2 = _byte_value(word, 16, FORM, X)
        v3 = _byte_value(word, 24, FORM, X)
    return v0, v1, v2, v3


@triton.jit
def _byte_value(word, shift: tl.constexpr, FORM: tl.constexpr, X: tl.constexpr):
    byte = ((word >> shift) & 255).to(tl.uint8)
    if FORM == "int8":
        v = byte.to(tl.int8, bitcast=True).to(tl.float32)
    else:
        v = float8_value(byte, X, False)
    return v


@triton.jit
def word_int4_values(word, offset, ZERO: tl.constexpr, X: tl.constexpr, NATIVE: tl.constexpr):
    """The values of each 32-bit word of int4 as `int4_values` gives them: four of low halves, then four of high ones.

    Without zero points (`ZERO`), `offset` is 8.
    """
    if NATIVE:
        if ZERO:
            bits = offset.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
            pair = bits | bits << 16
        else:
            # A constant would have a layout of its own, into which the words would be brought.
            EIGHTS: tl.constexpr = "mov.b32 $0, 0x48004800;" if X == tl.float16 else "mov.b32 $0, 0x41004100;"
            pair = tl.inline_asm_elementwise(EIGHTS, "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1)
        low_front, low_back, high_front, high_back = tl.inline_asm_elementwise(
            _INT4_F16 if X == tl.float16 else _INT4_BF16,
            "=&r,=&r,=&r,=&r,r,r,r",
            [word, pair, pair],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )
        v0, v1 = halves(low_front, X)
        v2, v3 = halves(low_back, X)
        v4, v5 = halves(high_front, X)
        v6, v7 = halves(high_back, X)
    else:
        v0 = (word & 15).to(tl.float32) - offset
        v1 = ((word >> 8) & 15).to(tl.float32) - offset
        v2 = ((word >> 16) & 15).to(tl.float32) - offset
        v3 = ((word >> 24) & 15).to(tl.float32) - offset
        v4 = ((word >> 4) & 15).to(tl.float32) - offset
        v5 = ((word >> 12) & 15).to(tl.float32) - offset
        v6 = ((word >> 20) & 15).to(tl.float32) - offset
        v7 = ((word >> 28) & 15).to(tl.float32) - offset
    return v0, v1, v2, v3, v4, v5, v6, v7
