"""Opening an engine directory: what does not match its manifest is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler.errors import EngineError
from compiler.os_errors import reading_hint
from compiler.progress import Advance
from runtime.engine_dir.hashing import sha256_file
from runtime.engine_dir.manifest import Manifest, RankFiles, read_manifest
from runtime.engine_dir.used_plugins import require_plugins

_AGAIN = "copy the engine again from where it came, or compile it again"


@dataclass(frozen=True)
class EngineFolder:
    """An engine directory whose files are those that its manifest lists."""

    path: Path
    manifest: Manifest

    def rank(self, target: str, rank: int = 0) -> RankFiles:
        """The files of a rank; EngineError if the engine was not built for that target."""
        ranks = self.manifest.targets.get(target)
        if ranks is None:
            built = ", ".join(self.manifest.targets) or "none"
            raise EngineError(
                f"{self.path} was not built for the target {target!r}; it was built for: {built}",
                hint=f"compile it again with --target {target}",
            )
        return ranks[rank]


def open_engine(path: str | Path, *, verify: bool = True, advance: Advance | None = None) -> EngineFolder:
    """The engine in the folder `path`.

    Args:
        path: the folder.
        verify: whether to compare the digest of every file, which reads them all; presence and size are always checked.
        advance: called with the bytes read since the last call.

    Raises:
        EngineError: naming the file or key that does not match, or the plug-in that is not there, and the mend.
    """
    folder = Path(path).expanduser()
    manifest = read_manifest(folder, verify=verify)
    require_plugins(folder, manifest.plugins)
    for name, entry in manifest.files.items():
        file = folder / name
        if not file.is_file():
            state = "a folder" if file.is_dir() else "missing"
            raise EngineError(f"{file} is {state}; the manifest lists it", hint=_AGAIN)
        size = file.stat().st_size
        if size != entry.bytes:
            raise EngineError(f"{file} has {size:,} bytes; the manifest says {entry.bytes:,}", hint=_AGAIN)
    if verify:
        _compare_digests(folder, manifest, advance)
    return EngineFolder(folder, manifest)


def _compare_digests(folder: Path, manifest: Manifest, advance: Advance | None) -> None:
    for name, entry in manifest.files.items():
        try:
            found = sha256_file(folder / name, advance)
        except OSError as error:
            raise EngineError(
                f"cannot read {folder / name}: {error.strerror}", hint=reading_hint(error, _AGAIN)
            ) from None
        if found != entry.sha256:
            raise EngineError(
                f"{folder / name} is damaged or was changed: its sha256 is {found[:16]}..., "
                f"the manifest says {entry.sha256[:16]}...",
                hint=_AGAIN,
            )
