"""Where the time of a step goes, kernel by kernel."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import torch
from gpu_timing import MANY, PROMPT

from runtime.generation.engine import Engine


def profile(engine: Engine, batch: int, steps: int = 20) -> Iterator[str]:
    """Lines about steps in which `batch` sequences decode."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    torch.cuda.empty_cache()  # of what earlier sessions held
    engine = Engine(engine.path, engine.manifest, engine.executor, None)  # whose pools go with it
    prompt = list(range(3, 3 + PROMPT))
    requests = [engine.submit(prompt, max_new_tokens=MANY, ignore_eos=True) for _ in range(batch)]
    while any(len(each.tokens) <= PROMPT + 4 for request in requests for each in request.sequences):
        engine.step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        engine.step()
    torch.cuda.synchronize()
    wall = (time.perf_counter() - start) / steps
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            engine.step()
        torch.cuda.synchronize()
    for request in requests:
        engine.cancel(request)
    kernels = [event for event in found.key_averages() if event.device_type == DeviceType.CUDA]
    total = sum(event.self_device_time_total for event in kernels) / steps
    yield f"batch {batch}: {wall * 1e6:.0f} us a step, of which kernels {total:.0f}"
    for event in sorted(kernels, key=lambda each: -each.self_device_time_total)[:14]:
        spent = event.self_device_time_total / steps
        yield f"  {spent:7.0f} us, {event.count / steps:5.1f} x {spent * steps / event.count:6.1f}  {event.key[:90]}"
