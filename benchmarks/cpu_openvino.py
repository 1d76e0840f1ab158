"""OpenVINO as a contender of `cpu.py`: what optimum-intel exports, compressed by NNCF, run by OpenVINO's own calls.

The exported model has its caches inside. As in OpenVINO's pipelines, the head is computed for the last token of a
prompt alone. Types of caches and activations are OpenVINO's defaults, but for the recipes `float32` and `bfloat16`,
which name the type of activations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from cpu_contender import Contender, Job
from openvino import opset13 as ops

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def prepare(job: Job) -> None:
    """Export the checkpoint, and compress its weights where the recipe is int8 or int4."""
    model = _exported(job)
    if job.recipe == "int8":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    if job.recipe == "int4":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=128, ratio=1.0)
    job.place.mkdir(parents=True)
    openvino.save_model(model, job.place / "model.xml", compress_to_fp16=job.recipe == "bfloat16")


def _exported(job: Job) -> Any:
    known = job.place.parent / "OpenVINO-float32" / "model.xml"
    if known.is_file():
        return openvino.Core().read_model(known)
    from optimum.intel.openvino import OVModelForCausalLM

    exported = OVModelForCausalLM.from_pretrained(job.checkpoint, export=True, compile=False, load_in_8bit=False)
    return exported.model


def _only_last_token(model: Any) -> None:
    """Let a model compute the logits of the last token alone."""
    for result in model.get_results():
        product = result.input_value(0).get_node()
        if product.get_type_name() == "MatMul":
            last = ops.slice(product.input_value(0), [-1], [np.iinfo(np.int64).max], [1], [1])
            product.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class OpenVino(Contender):
    """A compiled model with caches inside."""

    def __init__(self, job: Job) -> None:
        core = openvino.Core()
        model = core.read_model(Path(job.folder) / "model.xml")
        _only_last_token(model)
        settings = {"INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if job.recipe in _HINTS:
            settings["INFERENCE_PRECISION_HINT"] = _HINTS[job.recipe]
        compiled = core.compile_model(model, "CPU", settings)
        self._names = {name for port in compiled.inputs for name in port.names}
        self._request = compiled.create_infer_request()
        self._shown = {
            name.lower(): str(compiled.get_property(name))
            for name in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
        }

    def facts(self) -> dict[str, Any]:
        """Its version, and the types that it computes in."""
        return {"version": openvino.__version__.partition("-")[0], **self._shown}

    def run(self, ids: list[list[int]], new: int) -> list[list[int]]:
        """See `Contender.run`."""
        self._request.reset_state()
        given, past, found = np.array(ids, dtype=np.int64), 0, []
        for _ in range(new):
            batch, length = given.shape
            inputs = {
                "input_ids": given,
                "attention_mask": np.ones((batch, past + length), dtype=np.int64),
                "position_ids": np.tile(np.arange(past, past + length), (batch, 1)),
                "beam_idx": np.arange(batch, dtype=np.int32),
            }
            self._request.infer({name: value for name, value in inputs.items() if name in self._names})
            given = self._request.get_output_tensor(0).data[:, -1].argmax(axis=-1)[:, None]
            found.append(given[:, 0].tolist())
            past += length
        return [list(row) for row in zip(*found, strict=True)]


def open_contender(job: Job) -> Contender:
    """The compiled model."""
    return OpenVino(job)
