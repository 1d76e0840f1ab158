"""What `--target` means on this machine."""

from __future__ import annotations

from importlib.util import find_spec

from compiler.errors import TargetError
from compiler.suggest import did_you_mean
from compiler.trt_network.capabilities import CAPABILITIES
from compiler.trt_network.library import PACKAGES

_KNOWN = ("auto", "torch", *PACKAGES)


def resolve_targets(text: str) -> tuple[tuple[str, ...], str | None]:
    """The targets that a list such as `torch` or `auto` asks for, each once, and a note on what `auto` chose and why.

    Raises:
        TargetError: if one is unknown.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _KNOWN:
            raise TargetError(
                f"there is no target {name!r}{did_you_mean(name, _KNOWN)}", hint=f"targets are: {', '.join(_KNOWN)}"
            )
    if "auto" not in names:
        return tuple(dict.fromkeys(names)), None
    chosen, why = _automatic()
    return tuple(dict.fromkeys(chosen if name == "auto" else name for name in names)), f"target: {chosen}, {why}"


def _automatic() -> tuple[str, str]:
    """TensorRT where a package and a GPU that runs its engines are present, else torch; and why."""
    import torch

    if not torch.cuda.is_available():
        return "torch", "because this machine has no CUDA GPU (TensorRT engines: --target tensorrt-rtx)"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    gpu = f"{torch.cuda.get_device_name()} ({capability})"
    for target, module in PACKAGES.items():
        if find_spec(module) and CAPABILITIES[target].runs_on(capability):
            return target, f"because {module} is installed and runs on the {gpu}"
    return "torch", f"because no TensorRT package is installed that runs on the {gpu}"
