"""An engine of several ranks: each process that mpirun started loads its rank, and rank 0 drives them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.plugins import load_plugins
from compiler.progress import Progress
from runtime.engine_dir.engine_folder import EngineFolder, open_engine
from runtime.engine_dir.used_plugins import plugin_notes, plugins_found
from runtime.executors.kind import AUTO, RankToLoad, find_executor
from runtime.load.cache_options import CacheOptions
from runtime.load.choice import ExecutorChoice, choose
from runtime.load.ignored_options import device_cases, ignored_notes
from runtime.load.loading import check_request, prepare_torch
from runtime.processes.environment import rank_from_environment, share_cores

if TYPE_CHECKING:
    from runtime.collectives.groups import Upgrade
    from runtime.executors.interface import Executor
    from runtime.generation.engine import Engine
    from runtime.processes.world import World


def run_on_ranks(
    path: str | Path,
    main: Callable[[Engine], None],
    *,
    device: str = "auto",
    executor: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    cache_tokens: int | None = None,
    paged_cache: bool = False,
    verify: bool = True,
    plugins: Sequence[str | Path] = (),
    emulate: bool = False,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Load an engine on the ranks that mpirun started, and run `main` with it on rank 0. Every rank calls this.

    The other arguments are those of `runtime.load.loading.load_engine`, and `emulate` that of `choose`; `cuda` means
    each rank's own GPU. On rank 0, `progress` is called as loading begins and ends.

    Raises:
        LlmcError: on rank 0, whatever rank failed, whose name is in the message; the other ranks end with it.
    """
    share_cores()
    if rank_from_environment() == 0:
        progress("load", 0, 0)
    from runtime.executors.parallel.workers import drive
    from runtime.processes.agreement import check_agreement, check_world_size
    from runtime.processes.world import LOADING_SECONDS, join

    with join() as world:
        opened: list[EngineFolder] = []
        notes: list[str] = []
        caches: list[CacheOptions] = []

        def facts() -> dict[str, str]:
            check_request(executor, threads, device)
            caches.append(CacheOptions(cache_tokens, paged_cache))
            notes.extend(load_plugins(plugins))
            opened.append(open_engine(path, verify=verify))
            manifest = opened[0].manifest
            notes.extend(plugin_notes(opened[0].path, manifest.plugins))
            return {
                "engine": manifest.digest,
                "llmc": manifest.llmc,
                "plug-in": plugins_found(manifest.plugins),
                "layout of caches": "paged" if caches[0].wants_pages else "as compiled",
            }

        check_agreement(world, facts)
        folder = opened[0]
        mesh = folder.manifest.mesh
        if world.rank == 0:
            check_world_size(world.size, mesh, folder.path)
        prepare_torch(threads)
        from runtime.generation.engine import Engine

        plans: list[_Plan] = []

        def plan() -> dict[str, str]:
            plans.append(_plan(folder, world, device, executor, emulate))
            caches[0].check(plans[0].choice.kind)
            return {"executor": plans[0].choice.executor, "kind of device": plans[0].device.partition(":")[0]}

        check_agreement(world, plan, hint="say what all ranks are to use: --device, --executor")
        if world.rank == 0:
            cases = device_cases(plans[0].choice.kind, device, threads, on_gpu=plans[0].device != "cpu")
            for text in (*notes, *filter(None, [plans[0].choice.note]), *ignored_notes(*cases)):
                note(text)
        local = world.on_all_ranks(
            "loading",
            partial(_load, folder, world, plans[0], batch, caches[0].wants_pages, note),
            limit=LOADING_SECONDS,
        )
        if world.rank == 0:
            progress("load", 1, 1)
        engine = partial(Engine.over, folder, cache_tokens=cache_tokens)
        drive(world, local, lambda everyone: main(engine(everyone)), scoring=mesh.tp)


@dataclass(frozen=True)
class _Plan:
    """What a rank runs, on which device, and how the ranks of its groups exchange tensors."""

    choice: ExecutorChoice
    device: str
    upgrade: Upgrade


def _plan(folder: EngineFolder, world: World, device: str, name: str, emulate: bool) -> _Plan:
    """This rank's plan. It waits for no other rank, so that an error of one stops all."""
    import torch

    from runtime.collectives.nccl_communicator import NcclCommunicator
    from runtime.executors.rank_checks import why_no_gpu
    from runtime.executors.torch.device import find_device
    from runtime.processes.agreement import device_of_rank

    cpu_only = name != AUTO and find_executor(name).cpu_only
    if device == "cuda" and not cpu_only:
        find_device(device)  # says why there is none at all
    own = "cpu" if cpu_only else device_of_rank(world, device, gpus=torch.cuda.device_count())
    choice = choose(folder, name, own, emulate=emulate and device in ("auto", "cpu"))
    odd = why_no_gpu(odd=True) if device == AUTO and own == "cpu" and not cpu_only else ""
    if odd and not choice.note:
        choice = replace(choice, note=f"{folder.path} runs on the CPU, because torch can use no GPU: {odd}")
    if own == "cpu" or choice.kind.cpu_only:
        own = "cpu"
        return _Plan(choice, own, lambda group: group)
    torch.cuda.set_device(own)
    return _Plan(choice, own, NcclCommunicator.over(torch.device(own)))


def _load(
    folder: EngineFolder, world: World, plan: _Plan, batch: int | None, paged: bool, note: Callable[[str], None]
) -> Executor:
    """This rank's executor; of a stage, its part of the pipeline."""
    import torch

    from runtime.collectives.groups import form_groups
    from runtime.executors.parallel.pipeline import LogitsType, PipelineExecutor

    mesh = folder.manifest.mesh
    groups = form_groups(world.comm, tp=mesh.tp, upgrade=plan.upgrade)
    wanted = RankToLoad(folder, plan.choice.target, world.rank, plan.device, batch, groups.tp, paged)
    if world.rank == 0:
        wanted = replace(wanted, tell=note)
    executor = plan.choice.kind.load(wanted)
    if mesh.pp == 1:
        return executor
    return PipelineExecutor(executor, groups.pp, LogitsType(folder.manifest.vocab_size, torch.float32, plan.device))
