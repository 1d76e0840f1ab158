"""NCCL on real GPUs: `mpirun -n 2 python -m tests.runtime.collectives.gpu_ranks`, one GPU a rank."""

from __future__ import annotations

import sys

import torch

from runtime.collectives.groups import form_groups
from runtime.collectives.nccl_communicator import NcclCommunicator
from runtime.processes.agreement import device_of_rank
from runtime.processes.world import World, join
from tests.runtime.processes.toy_model import LAYERS


def main(world: World) -> None:
    device = torch.device(device_of_rank(world, "cuda", gpus=torch.cuda.device_count()))
    torch.cuda.set_device(device)
    comm = form_groups(world.comm, tp=world.size, upgrade=NcclCommunicator.over(device)).tp
    assert isinstance(comm, NcclCommunicator)
    n, rank = world.size, world.rank
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int64):
        every = [torch.arange(LAYERS, device=device).view(3, 4).mul(r + 1).to(dtype) for r in range(n)]
        assert torch.equal(comm.all_reduce(every[rank].clone()), sum(every[1:], every[0]))
        signed = [x * (-1) ** r for r, x in enumerate(every)]
        assert torch.equal(comm.all_max(signed[rank].clone()), torch.stack(signed).amax(0))
        for axis in (0, 1):
            assert torch.equal(comm.all_gather(every[rank], axis), torch.cat(every, axis))
        assert torch.equal(comm.broadcast(every[rank].clone(), n - 1), every[n - 1])
        if rank == 0:
            comm.send(every[0], 1)
        elif rank == 1:
            assert torch.equal(comm.recv(torch.empty_like(every[0]), 0), every[0])
    captured(comm, device)
    comm.barrier()
    comm.close()


def captured(comm: NcclCommunicator, device: torch.device) -> None:
    """An all-reduce in a CUDA graph, run three times."""
    x = torch.ones(1024, device=device)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        comm.all_reduce(x)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(x, torch.full_like(x, float(comm.size**3)))


if __name__ == "__main__":
    with join() as joined:
        main(joined)
        if joined.rank == 0:
            sys.stdout.write("right\n")
