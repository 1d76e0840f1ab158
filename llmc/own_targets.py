"""Importing this registers the targets that llmc itself brings, in the order in which `auto` considers them."""

import compiler.backend_trt.target  # noqa: F401
import runtime.executors.torch.target  # noqa: F401
