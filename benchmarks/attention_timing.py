"""Timing the attention of steps, and what is beside it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from attention_steps import FORMS, Case, Memory
from graph_timing import START, say, time_graph
from torch.nn.attention import SDPBackend, sdpa_kernel

from runtime.executors.cuda.kernels import attention
from runtime.executors.cuda.kernels.attention import Workspace


def compile_case(case: Case) -> str | None:
    """Compile what a case runs, in a process of its own; the compiled code is kept on disk. What failed, if it did."""
    try:
        case.set_up()
        case.step(Memory(2**24), 1, alone=True).run(0, Workspace())
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
        return f"{case}: {type(error).__name__}: {str(error)[:200]}"
    return None


def compile_all(cases: Iterable[Case]) -> None:
    """Compile what cases run, in many processes."""
    workers = max(1, min(14, (os.cpu_count() or 2) - 1))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for failure in pool.imap_unordered(compile_case, cases, chunksize=2):
            if failure:
                say("  cannot compile", failure)
    say(f"compiled after {time.time() - START:.0f} s")


def measure(case: Case, memory: Memory, peak: float) -> dict[str, Any]:
    """Time a case over pools that do not fit into the cache."""
    case.set_up()
    layers = max(2, min(48, int(4e8 / case.bytes))) if case.new == 1 else 4
    step, workspace = case.step(memory, layers), Workspace()
    micros = time_graph([partial(step.run, at, workspace) for at in range(len(step.pools))])
    result = {
        **asdict(case),
        "us": round(micros, 2),
        "share": round(case.bytes / micros * 1e6 / peak, 3),
        "tflops": round(case.operations / micros / 1e6, 1),
    }
    if case.batch * case.length <= 2048 and not case.beside:
        context, exact = step.run(0, workspace).double(), step.exact()
        result["error"] = f"{((context - exact).norm() / exact.norm()).item():.1e}"
    return result


def show(results: Iterable[dict[str, Any] | None], *columns: str) -> None:
    for result in results:
        if result:
            say("  " + "  ".join(f"{result.get(column, '')!s:>9}" for column in columns))


def attempt(case: Case, memory: Memory, peak: float) -> dict[str, Any] | None:
    try:
        return measure(case, memory, peak)
    except Exception as error:  # noqa: BLE001 - it is reported, and the others go on
        say(f"  FAILED {case}: {type(error).__name__}: {str(error)[:200]}")
        return None


def reference_prefill(case: Case) -> float:
    """Microseconds of torch's flash attention alone."""
    heads, _, width = FORMS[case.form]
    shape = (case.batch, heads, case.new, width)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return time_graph([lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)] * 4)


class _NoLaunch:
    """A kernel that does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def write_alone(case: Case, memory: Memory) -> float:
    """Microseconds of the part of a prompt's attention that turns queries and writes the cache."""
    kernel, attention.prefill = attention.prefill, _NoLaunch()
    try:
        step, workspace = case.step(memory, 4), Workspace()
        return time_graph([partial(step.run, at, workspace) for at in range(len(step.pools))])
    finally:
        attention.prefill = kernel
