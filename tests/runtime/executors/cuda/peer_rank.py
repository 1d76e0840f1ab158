"""One rank of sums over memory that processes share: `python peer_rank.py FOLDER RANK RANKS`, interpreted.

It says whether each of some sums is what all ranks together have, bit for bit.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from runtime.collectives.peer_memory import PeerMemory
from runtime.executors.cuda.kernels.peer_sums import ELEMENTS, PeerSums, peer_bytes

SHAPES = ((3, 2, 40), (1, 1, ELEMENTS + 8), (2, 1, 40), (1, 1, 3 * ELEMENTS), (3, 2, 40))


def parts_of(rank: int, number: int, dtype: torch.dtype) -> Tensor:
    """What a rank has: the same whoever asks."""
    draw = torch.Generator().manual_seed(100 * rank + number)
    return torch.randn(SHAPES[number], generator=draw).to(torch.float32 if SHAPES[number][0] > 1 else dtype)


def right(rank: int, ranks: int, sums: PeerSums) -> list[bool]:
    """Whether the sums are right that a rank computes with the others, of both widths."""
    found = []
    for dtype in (torch.float16, torch.float32):
        for number in range(len(SHAPES)):
            result = sums(parts_of(rank, number, dtype), dtype)
            total = torch.zeros_like(result, dtype=torch.float32)
            for other in range(ranks):
                own = torch.zeros_like(total)
                for part in parts_of(other, number, dtype).float():
                    own += part
                total += own.to(dtype).float()
            found.append(result.equal(total.to(dtype)))
    return found


def main() -> None:
    folder, rank, ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    pieces = [
        torch.from_file(str(folder / f"{each}.bin"), shared=True, size=peer_bytes(ranks) // 4, dtype=torch.int32)
        for each in range(ranks)
    ]
    addresses = torch.tensor([piece.data_ptr() for piece in pieces])
    sys.stdout.write(f"{all(right(rank, ranks, PeerSums(PeerMemory(rank, addresses))))}\n")


if __name__ == "__main__":
    main()
