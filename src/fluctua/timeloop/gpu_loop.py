"""The passes of the fused GPU loop: one Triton program for each block of columns of a current `[T, M]`."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fluctua.timeloop.derivation import Passed
from fluctua.timeloop.emitting import Pass, name_of
from fluctua.timeloop.gpu_source import Kernel, kernel
from fluctua.timeloop.limits import interpreted

_BLOCK = 128  # columns of a program, one for each of its threads


def run(
    way: Pass, read: Sequence[Tensor], halves: Sequence[Tensor], state: Sequence[Tensor], constants: Sequence[Tensor]
) -> Passed:
    """A pass over what is read, each `[T, B, *N]`; nothing is in `halves`, which only the CPU keeps."""
    like, shape = constants[0], read[0].shape
    loop = kernel(way, name_of(like.dtype), False, interpreted())
    rows = [t.detach().resolve_neg().contiguous() for t in read]
    written = [like.new_empty(shape) for _ in way.written]
    end, sums = torch.stack([part.detach() for part in state]), like.new_empty(len(way.sums), *shape[1:])
    columns, neurons = math.prod(shape[1:]), math.prod(shape[2:])
    arrays = [*rows, numbers_of(loop, like.dtype, like.device), end, stacked(constants, shape[2:])]
    if columns > 0:
        sizes = shape[0], columns, neurons, 0 if way.forth else math.prod(shape) - columns
        # No operations are fused: each is rounded as torch rounds it.
        options = {"BLOCK": _BLOCK, "num_warps": _BLOCK // 32, "enable_fp_fusion": False}
        with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
            loop.call[-(-columns // _BLOCK),](*arrays, *written, sums, *sizes, **options)
    return Passed(written, [], end, sums)


@lru_cache(maxsize=256)
def numbers_of(loop: Kernel, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Those of a kernel, on a device: they go there once."""
    return torch.tensor(loop.numbers, dtype=dtype, device=device)


def stacked(constants: Sequence[Tensor], neurons: torch.Size) -> Tensor:
    """All constants for each neuron, `[C, *N]`."""
    return torch.stack([c.detach().expand(neurons) for c in constants])
