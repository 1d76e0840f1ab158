"""llmc as a contender of `cpu.py`."""

from __future__ import annotations

from typing import Any

from cpu_contender import LONGEST, WIDEST, Contender, Job

import llmc
from compiler.ir.cost import PRODUCTS, graph_cost, step_sizes, weights_read

RECIPES = {
    "float32": ("float32", ""),
    "float16": ("float16", ""),
    "bfloat16": ("bfloat16", ""),
    **{
        f"{name}, {dtype}": (dtype, passes)
        for name, passes in {
            "int8": "quant=int8",
            "int8:head=int8": "quant=int8:head=int8",
            "int8:act=token": "quant=int8:act=token",
            "int4:group=128": "quant=int4:group=128",
            "int4:group=128:head=int8": "quant=int4:group=128:head=int8",
        }.items()
        for dtype in ("float32", "bfloat16")
    },
}
"""The element type and the passes of each recipe."""


def prepare(job: Job) -> None:
    """Compile the checkpoint."""
    dtype, passes = RECIPES[job.recipe]
    llmc.compile(
        job.checkpoint, job.folder, dtype=dtype, passes=passes, target="torch", max_batch=WIDEST, max_seq=LONGEST
    )


class Llmc(Contender):
    """An engine, opened anew for each number of sequences, as who loads it says how many there will be."""

    def __init__(self, job: Job) -> None:
        self._job, self._batch = job, 0
        self.expect(1)

    def expect(self, batch: int) -> None:
        """See `Contender.expect`."""
        if batch != self._batch:
            self._engine = None
            executor, threads = self._job.options["executor"], self._job.threads
            self._engine = llmc.load(
                self._job.folder, device="cpu", executor=executor, threads=threads, batch=batch, verify=False
            )
            self._batch = batch

    def facts(self) -> dict[str, Any]:
        """The bytes of weights that a step reads, and the operations of a prompt's products by its length."""
        graph = self._engine.executor.graph

        def operations(tokens: int) -> int:
            cost = graph_cost(graph, step_sizes(graph, batch=1, new=tokens))
            return sum(each.cost.flops for each in cost.ops if each.op.kind.name in PRODUCTS)

        prompts = {str(tokens): operations(tokens) for tokens in self._job.options["prompts"]}
        return {"version": llmc.__version__, "reads": weights_read(graph), "operations": prompts}

    def run(self, ids: list[list[int]], new: int) -> list[list[int]]:
        """See `Contender.run`."""
        found = self._engine.generate(ids, max_new_tokens=new, ignore_eos=True)
        return [list(completion.token_ids) for completion in found]


def open_contender(job: Job) -> Contender:
    """The compiled engine."""
    return Llmc(job)
