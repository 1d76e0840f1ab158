"""Serves the load of `random_load` on the ranks of an engine, under mpirun; rank 0 prints what the requests got.

`python -m tests.runtime.processes.in_flight ENGINE EXECUTOR`
"""

import json
import sys

from runtime.load.ranks import run_on_ranks
from tests.runtime.generation.random_load import serve

if __name__ == "__main__":
    run_on_ranks(
        sys.argv[1],
        lambda engine: print(json.dumps(serve(engine)), flush=True),  # noqa: T201
        device="cpu",
        executor=sys.argv[2],
    )
