"""How ranks exchange tensors: the communicator and its implementations over MPI and NCCL."""
