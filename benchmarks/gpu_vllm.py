"""vLLM beside llmc: the same shapes and loads, in a process with vLLM on its path.

`figures` starts it; run as a script, this file is that process, and prints a line of JSON for each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_timing import FEW, Figure, Load, measure

_MARK = "@figure "
# The names that vLLM's models give their linears: without weights it has no other way to know which are quantized.
_LINEARS = ["qkv_proj", "q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out", "fc1", "fc2", "query_key_value",
            "attention.dense", "dense_h_to_4h", "dense_4h_to_h", "Wqkv", "up_proj", "down_proj"]  # fmt: skip
# An fp8 cache needs attention kernels that write bfloat16.
_FP8_CACHE = {"kv_cache_dtype": "fp8", "dtype": "bfloat16"}
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_USE_DEEP_GEMM": "0", "VLLM_DEEP_GEMM_WARMUP": "skip",
    "VLLM_HOST_IP": "127.0.0.1", "VLLM_LOOPBACK_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo", "CUDA_MODULE_LOADING": "LAZY", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}  # fmt: skip
"""It measures without a network."""


def _gptq(bits: int) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 128, "desc_act": False, "sym": True, "lm_head": False,
            "checkpoint_format": "gptq", "modules_in_block_to_quantize": _LINEARS}  # fmt: skip


def _integers() -> dict[str, Any]:
    """int8 weights with a scale for each channel, int8 activations with one for each token."""
    common = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False},
        "input_activations": {**common, "strategy": "token", "dynamic": True},
    }
    return {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
            "ignore": ["lm_head"], "config_groups": {"group_0": group}}  # fmt: skip


_ZERO_POINTS = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
RECIPES: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "fp16": (None, {}),
    "int8": (_gptq(8), {}),
    "int4": (_gptq(4), {}),
    "int4-zero": (_ZERO_POINTS, {}),
    "fp8": (None, {"quantization": "fp8"}),
    "w8a8": (_integers(), {}),
    "fp16-kv8": (None, _FP8_CACHE),
    "fp8-kv8": (None, {"quantization": "fp8", **_FP8_CACHE}),
}
"""For each recipe of `gpu_shapes.RECIPES` what is nearest to it: an entry of config.json, and arguments of `LLM`."""


def figures(
    config: dict[str, Any], recipe: str, load: Load, path: str, limit: float, log: Path
) -> Iterator[Figure | str]:
    """The figures of a shape, and a sentence if something fails.

    Args:
        config: the model's `config.json`.
        recipe: a key of `RECIPES`.
        load: what is measured.
        path: folders in which vLLM lies, joined as in PYTHONPATH; empty if it is installed.
        limit: the seconds that it may take.
        log: the file for what it prints.
    """
    environment = {**_ENVIRONMENT, **os.environ}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH", ""))))
    job = json.dumps({"config": config, "recipe": recipe, "load": asdict(load)})
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, __file__, job], stdout=subprocess.PIPE, stderr=file, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(limit, _end, [process])
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_MARK):
                    yield Figure(*json.loads(line.removeprefix(_MARK)))
                else:
                    file.write(line)
            status = process.wait()
        finally:
            timer.cancel()
            _end(process)
    if status:
        yield f"vLLM ended with {status} ({_reason(log)})"


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and those that it started, which are a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reason(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if "Error" in line]
    return lines[0][-300:] if lines else "it was too slow, or says nothing"


def main() -> None:
    """The process that has vLLM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="JSON with config, recipe and load")
    job = parser.parse_args().job
    load = Load(**{**job["load"], "batches": tuple(job["load"]["batches"])})
    entry, arguments = RECIPES[job["recipe"]]
    from vllm import LLM, SamplingParams

    sizes = sorted({size for size in (1, 2, 4, 8, 16, 24, 32, 48, *range(64, 1025, 64), *load.batches)
                    if size <= load.widest})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = job["config"] | ({"quantization_config": entry} if entry else {})
        (Path(folder) / "config.json").write_text(json.dumps(config))
        usual: dict[str, Any] = {
            "model": folder, "load_format": "dummy", "skip_tokenizer_init": True, "dtype": "float16",
            "enable_prefix_caching": False, "gpu_memory_utilization": 0.85, "max_model_len": max(512, load.longest),
            "max_num_seqs": load.widest, "compilation_config": {"cudagraph_capture_sizes": sizes},
            "disable_log_stats": True, "seed": 0,
        }  # fmt: skip
        model = LLM(**usual | arguments)

        def run(ids: list[list[int]], new: int) -> None:
            params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
            found = model.generate([{"prompt_token_ids": each} for each in ids], params, use_tqdm=False)
            assert all(len(each.outputs[0].token_ids) == new for each in found)

        run([[5] * FEW], FEW)
        for figure in measure(run, load, warm=1):
            print(_MARK + json.dumps(figure), flush=True)
    os._exit(0)  # the process of its engine ends with this one's session


if __name__ == "__main__":
    main()
