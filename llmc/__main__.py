"""`python -m llmc`."""

from llmc.cli import main

main()
