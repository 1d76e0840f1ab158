"""Importing this registers the passes that llmc itself brings besides those of `compiler.passes`."""

import compiler.adapters  # noqa: F401
