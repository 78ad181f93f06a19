"""The passes of the fused GPU loops: a Triton program for each block of columns of a current `[T, M]`.

For a recurrent population, one for each block of samples, or for each tile of a step; see `gpu_source.py`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fluctua.timeloop.contract import Maybe, interpreted, name_of
from fluctua.timeloop.emitting import Pass, Passed
from fluctua.timeloop.gpu_source import Heard, Kernel, kernel

_BLOCK = 128  # columns of a program, one for each of its threads

# Samples and neurons of a tile, four of its cells per thread. Chosen from the machine code, which spills hardly any
# register, not from measurements.
_SAMPLES, _NEURONS, _WARPS = 16, 64, 8
_PLACES, _CHANNELS = 64, 16  # of a map

# Up to this number of neurons a program takes its samples through all steps. With a larger weight a step in one program
# takes longer than launching a program for each tile: an estimate from 16 x 256 x 256 products and sums.
_ALONE = 256


def run(
    way: Pass,
    read: Sequence[Tensor],
    state: Sequence[Tensor],
    constants: Sequence[Tensor],
    weight: Maybe = None,
    bias: Maybe = None,
    split: int = 0,
) -> Passed:
    """A pass over the arrays that it reads, each `[T, B, *N]`; only the CPU reads bfloat16.

    With a `weight` `[N, N]`, and a `bias`, the first array written in a step is the recurrent input of the next. Units
    before `split` reach the first input, the others the second. A `weight` `[C, C, *K]` is that of a convolution which
    keeps the shape of a map `[C, *N]`.
    """
    like, shape = constants[0], read[0].shape
    steps, columns, neurons = shape[0], math.prod(shape[1:]), math.prod(shape[2:])
    loop = kernel(way, name_of(like.dtype), _heard(weight, split), interpreted())
    rows = [t.detach().resolve_neg().contiguous() for t in read]
    written = [like.new_empty(shape) for _ in way.written]
    end, sums = torch.stack([part.detach() for part in state]), like.new_zeros(len(way.sums), *shape[1:])
    own = torch.stack([c.detach().expand(shape[2:]) for c in constants])
    arrays = [*rows, _numbers(loop, like.dtype, like.device), end, own, *written, sums]
    # No operations are fused: each is rounded as in torch.
    with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
        if columns > 0 and weight is None:
            first = 0 if way.forth else (steps - 1) * columns
            options = {"BLOCK": _BLOCK, "num_warps": _BLOCK // 32, "enable_fp_fusion": False}
            loop.call[-(-columns // _BLOCK),](*arrays, steps, columns, neurons, first, **options)
        elif columns > 0 and weight is not None:
            arrays += [weight.contiguous(), own if bias is None else bias.contiguous()]
            order = range(steps) if way.forth else range(steps - 1, -1, -1)
            grid, every_step, sizes, tile = _launch(shape, weight, split)
            taken = 1 if every_step else steps
            flags = {"BIASED": bias is not None, "num_warps": _WARPS, "enable_fp_fusion": False, **tile}
            for first in order if every_step else order[:1]:
                loop.call[grid](*arrays, split, int(first != order[0]), first, taken, *sizes, **flags)
    return Passed(written, end, sums)


def _launch(
    shape: torch.Size, weight: Tensor, split: int
) -> tuple[tuple[int, int], bool, tuple[int, ...], dict[str, int]]:
    """The grid of a recurrent loop for a current of this shape, whether every step is launched, sizes and the tile."""
    (_, samples, neurons, *frame), columns = shape, shape[1:].numel()
    if frame:
        places, window = math.prod(frame), (1, *weight.shape[2:])[-2:]
        grid = -(-samples * places // _PLACES), -(-neurons // _CHANNELS)
        sizes = samples * places, neurons, columns, places, frame[-1], *window
        return grid, True, sizes, {"SAMPLES": _PLACES, "NEURONS": _CHANNELS}
    alone, tiles = neurons <= _ALONE, sum(-(-part // _NEURONS) for part in (split, neurons - split))
    grid = -(-samples // _SAMPLES), 1 if alone else tiles
    return grid, not alone, (samples, neurons, columns), {"SAMPLES": _SAMPLES, "NEURONS": _NEURONS}


def _heard(weight: Maybe, split: int) -> Heard:
    if weight is None:
        return "nothing"
    if weight.ndim > 2:
        return "a map"
    return "two inputs" if 0 < split < len(weight) else "one input"


@lru_cache(maxsize=256)
def _numbers(loop: Kernel, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers of a kernel, copied to a device once."""
    return torch.tensor(loop.numbers, dtype=dtype, device=device)
