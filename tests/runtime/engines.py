"""Small engine directories for tests: real manifests over made-up files."""

from __future__ import annotations

from pathlib import Path

from compiler.ir.graph import DimRange
from compiler.ir.mesh import Mesh
from runtime.engine_dir.engine_writer import check_place, engine_writer
from runtime.engine_dir.manifest import EngineLimits, Manifest, Source, SpecialTokens

MANIFEST = Manifest(
    llmc="0.1.0",
    model={"family": "gpt_neox", "vocab_size": 97, "layers": 2},
    tokens=SpecialTokens((0, 3), 1, None),
    source=Source("pythia", "ab" * 32),
    mesh=Mesh(),
    dtype="float32",
    limits=EngineLimits(4, 8, 16),
    inputs={"token_ids": "i32[B,S]"},
    outputs={"logits": "f32[B,R,97]"},
    dims={"B": DimRange(1, 4, 4)},
    pipeline="cleanup",
    versions={"python": "3.12.1", "torch": "2.13.0"},
    targets={"torch": ({"graph": "rank0.ir", "weights": "rank0.safetensors"},)},
    tokenizer=None,
    files={},
)


def write_engine(place: Path, weights: bytes = b"weights") -> Manifest:
    """Write an engine to `place` as the compiler does."""
    with engine_writer(check_place(place), 1000) as writer:
        (writer.folder / "rank0.ir").write_text("graph g\n")
        (writer.folder / "rank0.safetensors").write_bytes(weights)
        return writer.commit(MANIFEST)
