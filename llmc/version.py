"""The version of llmc, which manifests name."""

__version__ = "0.1.0"
