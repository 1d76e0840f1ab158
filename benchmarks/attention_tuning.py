"""Steps with other tiles than the defaults."""

from __future__ import annotations

from typing import Any

from attention_steps import FLAT_BYTES, Case, Memory
from attention_timing import attempt, compile_all, show
from graph_timing import bandwidth, say


def tuning() -> list[Case]:
    """Cases with tiles other than the defaults."""
    own = ((4, 4, 1), (2, 4, 1), (8, 4, 1), (4, 2, 1), (8, 2, 1), (4, 8, 1), (2, 4, 2), (4, 4, 2), (2, 8, 1))
    decodes = [
        Case(form, pool, batch, past, tiles=tile)
        for form, pool, batch, past in (
            ("16x256", "f16", 1, 1023), ("16x256", "f16", 64, 255), ("16x256", "i8", 64, 255),
            ("16x256", "fp8", 64, 255), ("32x128", "f16", 8, 1023), ("32x128", "f16", 64, 255),
            ("32x128", "i8", 64, 255), ("32x80", "f16", 64, 255),
        )
        for tile in own
    ]  # fmt: skip
    shared = [
        Case("32/1x128", "f16", 64, 1023, tiles=tile)
        for tile in ((64, 4, 2), (32, 4, 2), (32, 4, 3), (64, 4, 3), (64, 8, 3), (128, 8, 2), (32, 4, 4))
    ]
    shares = [
        Case(form, "f16", batch, past, least=least, waves=waves)
        for form, batch, past in (
            ("16x256", 1, 255), ("16x256", 1, 1023), ("16x256", 1, 4095), ("16x256", 8, 255), ("32x128", 1, 1023),
            ("32x128", 8, 255), ("32/1x128", 1, 1023), ("32/1x128", 64, 1023),
        )
        for least in (16, 32, 64)
        for waves in (1, 2, 4, 8)
    ]  # fmt: skip
    prefills = [
        Case(form, pool, batch, 0, new, tiles=tile)
        for form, pool, batch, new in (
            ("16x256", "f16", 1, 2048), ("16x256", "f16", 1, 512), ("16x256", "i8", 1, 2048),
            ("32x128", "f16", 1, 2048), ("32x128", "f16", 1, 512), ("32x128", "f16", 8, 128),
        )
        for tile in ((64, 32, 4, 3), (64, 32, 4, 2), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 4), (128, 64, 8, 3),
                      (128, 64, 8, 2), (64, 32, 4, 4), (128, 128, 8, 2), (128, 32, 8, 3))
    ]  # fmt: skip
    return [*decodes, *shared, *shares, *prefills]


def tune() -> dict[str, Any]:
    """Time other tiles."""
    cases = tuning()
    compile_all(cases)
    memory, peak = Memory(FLAT_BYTES), bandwidth()
    say(f"bandwidth {peak / 1e12:.2f} TB/s")
    results = sorted(
        (each for case in cases if (each := attempt(case, memory, peak))),
        key=lambda each: (each["new"], each["form"], each["pool"], each["batch"], each["past"], each["us"]),
    )
    show(results, "form", "pool", "batch", "past", "new", "tiles", "least", "waves", "us", "share", "tflops", "error")
    return {"bandwidth": peak, "tuned": results}
