"""Where a step reads and writes, for kernels, and for ops that are left to the torch executor."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from compiler.ir.packed_step import PackedStep
from runtime.executors.cuda.kernels.addresses import Addresses
from runtime.executors.torch.paged_kernels import Masks, PagedAccess, Part


class StepAccess:
    """What a program gets beside its inputs; see `runtime.executors.torch.paged_kernels.PagedAccess` for the latter.

    Attributes:
        addresses: where the tokens are, for kernels.
    """

    def __init__(self, addresses: Addresses, step: PackedStep, blocks: int, device: torch.device) -> None:
        self.addresses = addresses
        self._step, self._blocks, self._device = step, blocks, device

    @cached_property
    def _plain(self) -> PagedAccess:
        return PagedAccess(self._step, self.addresses.block, self._blocks, self._device)

    @property
    def slots(self) -> Tensor | range:
        """See `PagedAccess`."""
        return self._plain.slots

    @property
    def parts(self) -> list[Part]:
        """See `PagedAccess`."""
        return self._plain.parts

    @property
    def masks(self) -> Masks:
        """See `PagedAccess`."""
        return self._plain.masks
