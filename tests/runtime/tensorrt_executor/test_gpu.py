"""What is said where an engine cannot be loaded, and how contexts are made. TensorRT and the GPU are stand-ins."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compiler.errors import EngineError, RequestError, TargetError
from compiler.trt.library import Library
from runtime.tensorrt_executor import gpu
from runtime.tensorrt_executor.executor import check_version
from runtime.tensorrt_executor.gpu import GpuBackend
from runtime.tensorrt_executor.gpu_checks import cuda_device, describe
from runtime.tensorrt_executor.streams import HostStream

DEVICE = torch.device("cuda", 0)
GB = 10**9


class Config(SimpleNamespace):
    """`IRuntimeConfig`."""

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class Engine:
    """`ICudaEngine` of two profiles."""

    num_optimization_profiles = 2

    def __init__(self):
        self.configs = []

    def get_device_memory_size_for_profile_v2(self, profile):
        return (profile + 1) * GB

    def create_runtime_config(self):
        return Config(dynamic_shapes_kernel_specialization_strategy="lazy")

    def create_execution_context(self, config):
        self.configs.append(config)
        return "context"


class Runtime:
    """`IRuntime`: it takes files that hold `plan`."""

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, content):
        if bytes(content) == b"plan":
            return Engine()
        self.logger.log(3, "Loaded engine size: 0 MiB")
        self.logger.log(1, "Error Code 1: Serialization")
        return None

    def get_engine_validity(self, content):
        return "INVALID", 2 | 32


class ILogger:
    """`ILogger`."""

    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, INFO=3)


TRT = SimpleNamespace(
    ILogger=ILogger,
    Runtime=Runtime,
    EngineInvalidityDiagnostics=SimpleNamespace(
        __members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "MALFORMED_ENGINE": 32}
    ),
    ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE="on profile change"),
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
)
LIBRARY = Library("tensorrt-rtx", TRT, "1.6.1")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """An L4 with 5 GB free, of which torch holds one."""
    for name, result in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "NVIDIA L4",
        "get_device_capability": (8, 9),
        "mem_get_info": (4 * GB, 24 * GB),
        "memory_reserved": 3 * GB,
        "memory_allocated": 2 * GB,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, result=result: result)
    monkeypatch.setattr(torch.cuda, "device", lambda device: HostStream().active())
    monkeypatch.setattr(gpu, "CudaStream", lambda device: HostStream())


def plan(folder: Path, content=b"plan") -> Path:
    (folder / "rank0.engine").write_bytes(content)
    return folder / "rank0.engine"


def refusal(error, call, *arguments, **options):
    with pytest.raises(error) as raised:
        call(*arguments, **options)
    assert raised.value.hint
    return raised.value


def test_an_engine_for_another_gpu_is_refused_with_all_that_is_known(tmp_path) -> None:
    error = refusal(TargetError, GpuBackend, LIBRARY, plan(tmp_path, b"?"), DEVICE, capabilities=("8.0", "12.0"))
    assert error.message == (
        f"TensorRT refused {tmp_path}/rank0.engine (it was built for 8.0, 12.0) on the NVIDIA L4 "
        "(compute capability 8.9): unsupported cc; malformed engine; Error Code 1: Serialization"
    )
    assert "--executor emulator" in error.hint


def test_an_engine_that_is_too_large_is_refused_before_it_is_loaded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GB + 3)
    message = refusal(TargetError, GpuBackend, LIBRARY, plan(tmp_path), DEVICE).message
    assert "rank0.engine takes 4 bytes, but the NVIDIA L4 (compute capability 8.9) has 3 bytes free" in message


def test_an_empty_file_is_named(tmp_path) -> None:
    message = refusal(EngineError, GpuBackend, LIBRARY, plan(tmp_path, b""), DEVICE).message
    assert "rank0.engine" in message


def test_room_is_for_caches_and_for_contexts_that_are_still_to_be_made(tmp_path) -> None:
    backend = GpuBackend(LIBRARY, plan(tmp_path), DEVICE)
    backend.check_room(2 * GB)
    message = refusal(RequestError, backend.check_room, 2 * GB + 1).message
    assert "the caches take 2 GB and running the engine 3 GB, but the NVIDIA L4" in message
    assert "has 5 GB free" in message
    backend.new_context(0, one_width=True)
    backend.check_room(3 * GB)


def test_contexts_have_memory_for_their_profile_and_kernels_from_the_start_where_steps_are_recorded(tmp_path) -> None:
    backend = GpuBackend(LIBRARY, plan(tmp_path), DEVICE)
    assert backend.new_context(0, one_width=True) == "context"
    backend.new_context(1, one_width=False)
    decode, prefill = backend.engine.configs
    assert decode.strategy == prefill.strategy == "on profile change"
    assert decode.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert prefill.dynamic_shapes_kernel_specialization_strategy == "lazy"


def test_a_tensorrt_without_runtime_configs(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(Engine, "create_runtime_config")
    backend = GpuBackend(LIBRARY, plan(tmp_path), DEVICE)
    backend.new_context(0, one_width=True)
    assert backend.engine.configs == ["on profile change"]


def test_a_context_that_cannot_be_made(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "create_execution_context", lambda self, config: None)
    backend = GpuBackend(LIBRARY, plan(tmp_path), DEVICE)
    backend._log.log(1, "out of memory")
    assert "execution context: out of memory" in refusal(EngineError, backend.new_context, 0, one_width=True).message


def test_devices_are_checked(monkeypatch) -> None:
    assert cuda_device("auto") == cuda_device("cuda") == cuda_device("cuda:0") == DEVICE
    assert "not on cpu" in refusal(TargetError, cuda_device, "cpu").message
    assert "there is no device 'tpu'" in refusal(TargetError, cuda_device, "tpu").message
    assert "there is no cuda:1; torch sees 1 GPUs" in refusal(TargetError, cuda_device, "cuda:1").message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    error = refusal(TargetError, cuda_device, "auto")
    assert error.message == "a TensorRT engine runs on a CUDA GPU, and torch sees none on this machine"
    assert error.hint == "run it on the CPU, slowly: --executor emulator"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in refusal(TargetError, cuda_device, "cuda").message


def test_a_gpu_is_described() -> None:
    assert describe(DEVICE) == "the NVIDIA L4 (compute capability 8.9)"


def test_another_version_of_the_package_is_refused() -> None:
    check_version(LIBRARY, "tensorrt_rtx 1.6.1")
    error = refusal(TargetError, check_version, LIBRARY, "tensorrt_rtx 1.5.0")
    assert error.message == "the engine was built with tensorrt_rtx 1.5.0, but tensorrt_rtx 1.6.1 is installed"
    assert error.hint.startswith("pip install tensorrt-rtx-cu13==1.5.0")
