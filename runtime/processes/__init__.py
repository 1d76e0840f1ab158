"""Starting the processes of several ranks, watching over them, and ending them; see docs/mpi.md."""
