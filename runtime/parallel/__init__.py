"""Several processes that run one engine: MPI ranks, their communication, and their failures; see docs/mpi.md."""
