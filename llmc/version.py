"""The versions of llmc and of its public API."""

__version__ = "0.1.0"
"""The version of llmc, which manifests name."""

API_VERSION = 1
"""The version of the public API; docs/stability.md says when it grows."""
