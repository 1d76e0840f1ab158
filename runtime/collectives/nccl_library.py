"""NCCL's C interface, through ctypes."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from compiler.errors import TargetError

ID_BYTES = 128
# ncclRedOp_t
SUM, MAX = 0, 2
# ncclDataType_t
DTYPES = {
    torch.int8: 0,
    torch.uint8: 1,
    torch.bool: 1,
    torch.int32: 2,
    torch.int64: 4,
    torch.float16: 6,
    torch.float32: 7,
    torch.float64: 8,
    torch.bfloat16: 9,
}

_Pointer, _Size, _Int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class UniqueId(ctypes.Structure):
    """`ncclUniqueId`: what the ranks of a communicator find each other by."""

    _fields_ = (("internal", ctypes.c_byte * ID_BYTES),)


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ncclGetUniqueId": (ctypes.POINTER(UniqueId),),
    "ncclCommInitRank": (ctypes.POINTER(_Pointer), _Int, UniqueId, _Int),
    "ncclCommDestroy": (_Pointer,),
    "ncclAllReduce": (_Pointer, _Pointer, _Size, _Int, _Int, _Pointer, _Pointer),
    "ncclAllGather": (_Pointer, _Pointer, _Size, _Int, _Pointer, _Pointer),
    "ncclBroadcast": (_Pointer, _Pointer, _Size, _Int, _Int, _Pointer, _Pointer),
    "ncclSend": (_Pointer, _Size, _Int, _Int, _Pointer, _Pointer),
    "ncclRecv": (_Pointer, _Size, _Int, _Int, _Pointer, _Pointer),
}


class Nccl:
    """The library. Its calls raise TargetError where NCCL reports an error."""

    def __init__(self, library: Any) -> None:
        """Declare the calls of a loaded library."""
        self._library = library
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(arguments), _Int
        library.ncclGetErrorString.argtypes, library.ncclGetErrorString.restype = [_Int], ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call `name`; TargetError if it fails."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = (self._library.ncclGetErrorString(code) or b"").decode(errors="replace")
            raise TargetError(f"{name} failed: {text} ({code})", hint="NCCL_DEBUG=WARN shows what NCCL says about it")

    def unique_id(self) -> bytes:
        """A new id."""
        identity = UniqueId()
        self.call("ncclGetUniqueId", ctypes.byref(identity))
        return bytes(identity)

    def init_rank(self, size: int, identity: bytes, rank: int) -> int:
        """The `ncclComm_t` of a rank on the current CUDA device. Waits for the others."""
        comm = _Pointer()
        self.call("ncclCommInitRank", ctypes.byref(comm), size, UniqueId.from_buffer_copy(identity), rank)
        return int(comm.value or 0)


def load_nccl() -> Nccl:
    """NCCL, as torch brought it, or from the library path.

    It becomes visible to TensorRT, which looks for `libnccl.so.2` itself.

    Raises:
        TargetError: if there is none.
    """
    problems = []
    for place in (*_beside_torch(), "libnccl.so.2"):
        try:
            return Nccl(ctypes.CDLL(str(place), mode=ctypes.RTLD_GLOBAL))
        except (OSError, AttributeError) as error:
            problems.append(str(error))
    raise TargetError(
        f"an engine of several GPUs needs NCCL: {problems[-1]}",
        hint="install torch with CUDA, which brings it, or pip install nvidia-nccl-cu13",
    )


def _beside_torch() -> list[Path]:
    spec = find_spec("nvidia")
    roots = list(spec.submodule_search_locations or []) if spec else []
    return [path for root in roots for path in Path(root).glob("nccl/lib/libnccl.so.2")]
