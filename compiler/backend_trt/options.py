"""How an engine is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from compiler.errors import TargetError
from compiler.suggest import did_you_mean

COMPUTE_CAPABILITIES = {"7.5": "SM75", "8.0": "SM80", "8.6": "SM86", "8.9": "SM89", "12.0": "SM120"}
"""The compute capabilities an engine can be restricted to: RTX 20 and T4; A100; RTX 30; RTX 40 and L4; RTX 50."""
DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""Those that TensorRT-RTX builds for if it is not restricted: without 7.5, which has no bfloat16."""
Plugin = Literal["products", "rounded", "dense", "attention"]
PLUGINS: tuple[str, ...] = get_args(Plugin)
VERBOSITIES = {"names": "LAYER_NAMES_ONLY", "detailed": "DETAILED", "none": "NONE"}


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        compute_capability: the GPUs that it is for, such as `8.9`; empty for all that TensorRT-RTX names. An engine
            for all of them is compiled for the GPU at hand when it is loaded.
        optimization_level: 0 to 5, TensorRT's own default if None.
        profiling_verbosity: what the engine can tell about its layers: `names`, `detailed` or `none`.
        batch_sizes: the batches that get plans of their own; chosen from the largest if empty.
        prompt_sizes: the chunks that prompts are taken in by, in tokens; chosen from the longest if empty.
        capacities: the lengths of caches that get plans of their own; chosen from the longest if empty.
        workers: how many plans are built at a time; as many as there are processors if None.
        reuse: whether to take plans that were built before, and to keep new ones for the next time.
        plugins: what becomes layers of llmc's plug-ins, whose kernels Triton compiles where the engine runs:
            `products`, linears over quantized weights whose activations are floats; `rounded`, those whose activations
            are rounded to the 8 bits that the weight has; `dense`, those over float weights in plans of at most 64
            tokens; `attention`, attention of plans for one token of each sequence.
    """

    compute_capability: Annotated[tuple[str, ...], "the GPUs that it is for, such as 8.9; all if empty"] = ()
    optimization_level: Annotated[int | None, "0 to 5; TensorRT's own default if none"] = None
    profiling_verbosity: Annotated[str, "what the engine can tell of its layers: names, detailed or none"] = "names"
    batch_sizes: Annotated[tuple[int, ...], "batches that get plans; chosen from the largest if empty"] = ()
    prompt_sizes: Annotated[tuple[int, ...], "prefill chunks that get plans; chosen from the longest if empty"] = ()
    capacities: Annotated[tuple[int, ...], "lengths of caches that get plans; chosen from the longest if empty"] = ()
    workers: Annotated[int | None, "how many plans are built at a time; one per processor if none"] = None
    reuse: Annotated[bool, "whether to take plans that were built before, and keep new ones"] = True
    plugins: Annotated[
        tuple[Plugin, ...],
        "what llmc's own kernels compute: products over quantized weights, rounded activations too, dense ones; "
        "attention of single tokens",
    ] = ()

    def __post_init__(self) -> None:
        for capability in self.compute_capability:
            if capability not in COMPUTE_CAPABILITIES:
                raise TargetError(
                    f"there is no compute capability {capability!r} to build for",
                    hint=f"choose from: all, {', '.join(COMPUTE_CAPABILITIES)}",
                )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise TargetError(f"the optimization level is {self.optimization_level}; it must be 0 to 5")
        if self.workers is not None and self.workers < 1:
            raise TargetError(f"{self.workers} workers were asked for; at least 1 is needed")
        for plugin in self.plugins:
            if plugin not in PLUGINS:
                raise TargetError(
                    f"there are no plug-ins for {plugin!r}{did_you_mean(plugin, PLUGINS)}",
                    hint=f"choose from: {', '.join(PLUGINS)}",
                )
        if self.profiling_verbosity not in VERBOSITIES:
            raise TargetError(
                f"there is no profiling verbosity {self.profiling_verbosity!r}"
                f"{did_you_mean(self.profiling_verbosity, VERBOSITIES)}",
                hint=f"choose from: {', '.join(VERBOSITIES)}",
            )


def configure(
    trt: Any, config: Any, options: BuildOptions, *, side_by_side: bool = True, in_place: bool = False
) -> None:
    """Give the options to a builder's config.

    Args:
        trt: the TensorRT package.
        config: the config.
        options: the options.
        side_by_side: whether kernels may run beside each other.
        in_place: whether plug-ins write to inputs in place.

    Raises:
        TargetError: if this package has no such compute capability.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    if not side_by_side:
        config.max_aux_streams = 0
    if in_place:
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, VERBOSITIES[options.profiling_verbosity])
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if not options.compute_capability:
        return
    if not hasattr(config, "set_compute_capability"):
        raise TargetError(
            "this TensorRT package builds for the GPU at hand only",
            hint="leave out --compute-capability, or build with --target tensorrt-rtx",
        )
    config.num_compute_capabilities = len(options.compute_capability)
    for index, capability in enumerate(options.compute_capability):
        config.set_compute_capability(getattr(trt.ComputeCapability, COMPUTE_CAPABILITIES[capability]), index)
