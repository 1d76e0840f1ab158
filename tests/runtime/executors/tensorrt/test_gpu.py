"""What is said where plans cannot be loaded, and how contexts are made. TensorRT and the GPU are stand-ins."""

import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import EngineError, RequestError, TargetError
from compiler.trt_network.library import Library, load_library
from compiler.trt_network.plans import PlanFiles, Plans
from compiler.trt_network.record import Weight
from runtime.collectives.communicator import SingleRank
from runtime.executors.tensorrt import executor, gpu
from runtime.executors.tensorrt.executor import TensorRTExecutor, check_version
from runtime.executors.tensorrt.gpu import GpuBackend
from runtime.executors.tensorrt.gpu_checks import cuda_device, describe
from runtime.executors.tensorrt.kernel_cache import KernelCache
from runtime.executors.tensorrt.streams import HostStream
from tests.runtime.executors.tensorrt.fake_engine import SPLIT, WEIGHTS, FakeBackend

DEVICE = torch.device("cuda", 0)
GB = 10**9
PLAN = PlanFiles("decode-b1-c8", "rank0.engine", "rank0.network.json")
RECORD = SPLIT[0][1]


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


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """Makes a backend whose only plan is a file of certain content."""

    def make(content=b"plan", **options):
        monkeypatch.setattr(gpu, "load_weights", lambda file, wanted, device, check_memory: WEIGHTS)
        (tmp_path / PLAN.engine).write_bytes(content)
        return GpuBackend(LIBRARY, tmp_path, "rank0.safetensors", (), DEVICE, **options)

    return make


def refusal(error, call, *arguments, **options):
    with pytest.raises(error) as raised:
        call(*arguments, **options)
    assert raised.value.hint
    return raised.value


def test_a_plan_for_another_gpu_is_refused_with_all_that_is_known(backend, tmp_path) -> None:
    error = refusal(TargetError, backend(b"?", capabilities=("8.0", "12.0")).load, PLAN, RECORD)
    assert error.message == (
        f"TensorRT refused {tmp_path}/rank0.engine (it was built for 8.0, 12.0) on the NVIDIA L4 "
        "(compute capability 8.9): unsupported cc; malformed engine; Error Code 1: Serialization"
    )
    assert "--compute-capability 8.9" in error.hint
    assert "--executor emulator" in error.hint


@pytest.mark.parametrize(
    ("capability", "mend"), [((9, 0), "TensorRT-RTX 1.4.0 and 1.6.1; 1.7.1 refuses"), ((6, 1), "no version")]
)
def test_a_version_that_refuses_a_gpu_is_not_the_only_one(backend, monkeypatch, capability, mend) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert mend in refusal(TargetError, backend(b"?").load, PLAN, RECORD).hint


def test_a_plan_that_loads_is_not_refused_whatever_is_said_about_its_validity(backend) -> None:
    assert Runtime(None).get_engine_validity(b"plan")[0] == "INVALID"
    assert isinstance(backend().load(PLAN, RECORD), Engine)


def test_a_plan_that_is_too_large_is_refused_before_it_is_loaded(backend, monkeypatch) -> None:
    ready = backend()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GB + 3)
    message = refusal(TargetError, ready.load, PLAN, RECORD).message
    assert "rank0.engine takes 4 bytes, but the NVIDIA L4 (compute capability 8.9) has 3 bytes free" in message


def test_weights_that_are_too_large_are_refused_before_they_are_loaded(tmp_path) -> None:
    save_file({"matrix": torch.zeros(4, 4)}, tmp_path / "rank0.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 * GB))
        patch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GB + 3)
        arguments = LIBRARY, tmp_path, "rank0.safetensors", [Weight("matrix")], DEVICE
        message = refusal(TargetError, GpuBackend, *arguments).message
    assert "rank0.safetensors takes 256 bytes, but the NVIDIA L4 (compute capability 8.9) has 3 bytes free" in message


def test_an_empty_or_missing_file_is_named(backend, tmp_path) -> None:
    ready = backend(b"")
    assert "rank0.engine" in refusal(EngineError, ready.load, PLAN, RECORD).message
    (tmp_path / PLAN.engine).unlink()
    assert "rank0.engine" in refusal(EngineError, ready.load, PLAN, RECORD).message


def test_room_is_for_caches_and_contexts(backend) -> None:
    ready = backend()
    working = ready.context_bytes(ready.load(PLAN, RECORD), 1)
    assert working == 2 * GB
    ready.check_memory(3 * GB, working)
    message = refusal(RequestError, ready.check_memory, 3 * GB + 1, working).message
    assert "the caches take 3 GB and running the engine 2 GB, but the NVIDIA L4" in message
    assert "has 5 GB free" in message


def test_contexts_have_memory_for_their_profile_and_kernels_from_the_start_where_steps_are_alike(backend) -> None:
    ready = backend()
    engine = ready.load(PLAN, RECORD)
    assert ready.new_context(engine, eager=True) == "context"
    ready.new_context(engine, eager=False)
    decode, prefill = engine.configs
    assert decode.strategy == prefill.strategy == "on profile change"
    assert decode.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert prefill.dynamic_shapes_kernel_specialization_strategy == "lazy"


def test_a_tensorrt_without_runtime_configs(backend, monkeypatch) -> None:
    monkeypatch.delattr(Engine, "create_runtime_config")
    ready = backend()
    engine = ready.load(PLAN, RECORD)
    ready.new_context(engine, eager=True)
    assert engine.configs == ["on profile change"]


def test_all_plans_share_the_kernels(backend, monkeypatch) -> None:
    attached = []
    monkeypatch.setattr(KernelCache, "attach", lambda self, config: attached.append(self.path))
    ready = backend(digest="ab")
    for _ in range(2):
        ready.new_context(ready.load(PLAN, RECORD), eager=True)
    assert attached[0] is not None
    assert len(attached) == 2
    assert len(set(attached)) == 1


def test_a_context_that_cannot_be_made(backend, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "create_execution_context", lambda self, config: None)
    ready = backend()
    engine = ready.load(PLAN, RECORD)
    ready._messages.logger.log(1, "out of memory")
    assert "execution context: out of memory" in refusal(EngineError, ready.new_context, engine, eager=True).message


class Group(SingleRank):
    """A rank of two with an NCCL communicator."""

    size = 2

    def capsule(self):
        return "ncclComm_t"


@pytest.mark.parametrize("group", [None, SingleRank(), Group()])
def test_contexts_have_the_communicator_of_the_ranks_if_there_are_others(backend, monkeypatch, group) -> None:
    taken = []

    def take(communicator):
        taken.append(communicator)
        return True

    context = SimpleNamespace(set_communicator=take)
    monkeypatch.setattr(Engine, "create_execution_context", lambda self, config: context)
    ready = backend(group=group)
    assert ready.new_context(ready.load(PLAN, RECORD), eager=True) is context
    assert taken == (["ncclComm_t"] if isinstance(group, Group) else [])


def test_a_communicator_that_is_not_taken(backend, monkeypatch) -> None:
    context = SimpleNamespace(set_communicator=lambda communicator: False)
    monkeypatch.setattr(Engine, "create_execution_context", lambda self, config: context)
    ready = backend(group=Group())
    engine = ready.load(PLAN, RECORD)
    ready._messages.logger.log(1, "no libnccl.so.2")
    error = refusal(EngineError, ready.new_context, engine, eager=True)
    assert error.message.endswith("did not take the communicator of the ranks: no libnccl.so.2")


def test_ranks_that_do_not_exchange_tensors_by_nccl_are_refused(backend, monkeypatch) -> None:
    monkeypatch.delattr(Group, "capsule")
    assert "by NCCL, not by Group" in refusal(TargetError, backend, group=Group()).message


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


@pytest.fixture
def stored(tmp_path):
    """The files of a rank: the plans and their records, but no engines and no weights."""
    plans = []
    for name, record in SPLIT:
        plans.append(PlanFiles(name, f"{name}.engine", f"{name}.network.json"))
        record.write(tmp_path / f"{name}.network.json")
    Plans("rank0.safetensors", tuple(plans)).write(tmp_path / "rank0.plans.json")
    return {"plans": "rank0.plans.json"}


def test_a_missing_package_is_named_with_how_to_install_it(tmp_path, stored, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    load_library.cache_clear()
    error = refusal(TargetError, TensorRTExecutor.load, tmp_path, stored)
    assert "needs the Python package tensorrt_rtx, which is not installed" in error.message
    load_library.cache_clear()


def test_the_plans_must_be_of_the_package_that_is_installed(tmp_path, stored, monkeypatch) -> None:
    monkeypatch.setattr(executor, "load_library", lambda target: LIBRARY)
    message = refusal(TargetError, TensorRTExecutor.load, tmp_path, stored).message
    assert message == "the engine was built with fake 1, but tensorrt_rtx 1.6.1 is installed"


def test_kernels_are_kept_under_the_digests_of_all_plans_and_only_needed_weights_are_loaded(
    tmp_path, stored, monkeypatch
) -> None:
    made: list[tuple[set[str], str | None]] = []

    def backend(library, folder, weights, wanted, device, *, digest, **options):
        made.append(({weight.source for weight in wanted}, digest))
        return FakeBackend()

    monkeypatch.setattr(executor, "load_library", lambda target: Library("tensorrt-rtx", TRT, "1"))  # type: ignore[arg-type]
    monkeypatch.setattr(executor, "check_version", lambda library, built_with: None)
    monkeypatch.setattr(gpu, "GpuBackend", backend)
    engines = [f"{name}.engine" for name, _ in SPLIT]
    for changed in (None, *engines):
        digests = {file: "ab" if file == changed else "cd" for file in engines}
        loaded = TensorRTExecutor.load(tmp_path, stored, digests=digests)
    TensorRTExecutor.load(tmp_path, stored)
    assert (loaded.name, [plan.name for plan in loaded.plans]) == ("tensorrt-rtx", [name for name, _ in SPLIT])
    assert all(sources == {"unit"} for sources, _ in made)
    assert len({digest for _, digest in made}) == len(engines) + 2
    assert made[-1][1] is None
