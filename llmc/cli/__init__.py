"""The command line: thin over `import llmc`."""

from llmc.cli.entry import main

__all__ = ["main"]
