import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.executors.cuda.kernels.peer_sums import MOST_ELEMENTS, PeerSums, peer_bytes

SCRIPT = Path(__file__).parent / "peer_rank.py"


@pytest.mark.parametrize("ranks", [2])
def test_ranks_that_share_memory_get_the_same_sums(ranks: int, tmp_path: Path) -> None:
    for rank in range(ranks):
        (tmp_path / f"{rank}.bin").write_bytes(bytes(peer_bytes(ranks)))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path, str(rank), str(ranks)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    assert [each.communicate(timeout=120)[0].strip() for each in running] == ["True"] * ranks


def test_what_is_larger_than_the_memory_is_not_taken() -> None:
    assert [PeerSums.takes(count) for count in (0, 1, MOST_ELEMENTS, MOST_ELEMENTS + 1)] == [False, True, True, False]
