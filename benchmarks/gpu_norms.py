"""The kernels of sums and norms: times and errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from graph_timing import time_graph

from runtime.executors.cuda.kernels.norms import Affine, add_norm, add_norm_of_rows


def norms(peak: float) -> list[dict[str, Any]]:
    """Times of `add_norm` of a residual, four float32 parts and a bias, and its error against float64."""
    results, width = [], 4096
    for tokens in (1, 8, 64, 2048):
        size = tokens * width * (4 * 4 + 2 * 3)
        copies = max(2, min(32, int(2e8 / size)))
        parts = [torch.randn(4, tokens, width, device="cuda") for _ in range(copies)]
        x = torch.randn(tokens, width, device="cuda").half()
        weight, bias = (torch.randn(width, device="cuda").half() for _ in range(2))
        for kind in ("layer_norm", "rms_norm"):
            calls = [
                partial(add_norm, x, [part], [bias], [Affine(weight, bias)], 1e-5, kind, sum_dtype=torch.float16)
                for part in parts
            ]
            micros = time_graph(calls)
            total, normed = calls[0]()
            exact = total.double()
            exact = exact - exact.mean(-1, keepdim=True) if kind == "layer_norm" else exact
            exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
            error = ((normed.double() - exact).norm() / exact.norm()).item()
            _, second = add_norm(x, [parts[0]], [bias], [Affine(weight)], 1e-5, kind, sum_dtype=x.dtype)
            affines = [Affine(weight, bias), Affine(weight)]
            both = add_norm(x, [parts[0]], [bias], affines, 1e-5, kind, sum_dtype=x.dtype)
            rows = torch.tensor([tokens - 1, 0], dtype=torch.int32, device="cuda")
            (few,) = add_norm_of_rows(x, [parts[0]], [bias], [Affine(weight)], 1e-5, kind, sum_dtype=x.dtype, rows=rows)
            alike = torch.equal(both[1], normed) and torch.equal(both[2], second) and torch.equal(few, second[rows])
            summed = x.double() + parts[0].double().sum(0) + bias.double()
            results.append(
                {
                    "tokens": tokens,
                    "kind": kind,
                    "us": round(micros, 2),
                    "share": round(size / micros * 1e6 / peak, 3),
                    "alike": alike,
                    "error": f"{error:.1e}",
                    "sum error": f"{((total.double() - summed).norm() / summed.norm()).item():.1e}",
                }
            )
    return results
