"""Decode steps of a large shape on several GPUs: `mpirun -n 2 python benchmarks/gpu_shards.py --shape neox-20b`.

Every rank builds its own part of the model, with random weights in its GPU's memory, and makes the same steps as the
others; so no weights are written or sent. Milliseconds a step are (t(128 new) - t(16 new)) / 112 after prompts of
128 tokens; the bound is what the bytes of a rank's weights take at the bandwidth measured on rank 0.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
from gpu_limits import bandwidth
from gpu_profile import profile
from gpu_shapes import SHAPES, random_constants, write_config
from gpu_timing import Load, measure

import llmc
from compiler.ir.cost import weights_read
from compiler.store.ranks import stored_ranks
from runtime.collectives.mpi_communicator import MpiCommunicator
from runtime.collectives.mpi_library import start_mpi
from runtime.collectives.nccl_communicator import NcclCommunicator
from runtime.collectives.rank_status import StatusRecorder
from runtime.executors.cuda.executor import CudaExecutor
from runtime.generation.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="neox-20b", choices=SHAPES)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--quant", default="", help="passes before tp, such as quant=int8")
    parser.add_argument("--profile", action="store_true", help="show the kernels of a step on rank 0")
    given = parser.parse_args()
    world = MpiCommunicator(start_mpi(), StatusRecorder(float("inf")))
    device = torch.device("cuda", world.rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    group = NcclCommunicator.over(device)(world)
    batches = [int(size) for size in given.batches.split(",")]
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(action="ignore"):
        folder = write_config(given.shape, Path(temporary))
        passes = ",".join(filter(None, (given.quant, f"tp={world.size}", "merge-linears=off")))
        dry = llmc.dry_run(folder, folder / "engine", passes=passes, dummy_weights=True, target="torch",
                           max_batch=max(batches), max_seq=512)  # fmt: skip
        (graph,) = stored_ranks(dry.graph, [world.rank])
        executor = CudaExecutor(graph, device=device, group=group, load=random_constants(graph, device))
        engine = Engine(folder / "engine", dry.manifest, executor, None)
    if world.rank == 0:
        bound = weights_read(graph) / bandwidth() * 1e3
        print(
            f"{torch.cuda.get_device_name()} x {world.size}, {given.shape} {passes}, bound {bound:.2f} ms", flush=True
        )
        print(*executor.explain(), sep="\n")
    world.barrier()
    load = Load(SHAPES[given.shape]["vocab_size"], tuple(batches))
    for figure in measure(lambda ids, new: engine.generate(ids, max_new_tokens=new, ignore_eos=True), load):
        if world.rank == 0:
            print(f"batch {figure.batch}: {figure.value:.2f} ms a step", flush=True)
    for batch in batches if given.profile else ():
        lines = list(profile(engine, batch))
        if world.rank == 0:
            print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
