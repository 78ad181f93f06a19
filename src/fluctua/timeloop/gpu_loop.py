"""The passes of the fused GPU loop: one Triton program for each block of columns of a current `[T, M]`."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fluctua.timeloop.gpu_source import Kernel, backward_kernel, forward_kernel
from fluctua.timeloop.limits import interpreted

if TYPE_CHECKING:
    from fluctua.timeloop.derivation import Kind, Plan

Maybe = Tensor | None

_BLOCK = 128  # columns of a program, one for each of its threads


def integrate(
    inputs: Sequence[Tensor], state: Sequence[Tensor], constants: Sequence[Tensor], plan: "Plan"
) -> list[Tensor]:
    """See `derivation.integrate`."""
    x = inputs[0]
    kernel = forward_kernel(plan, name_of(x), False, interpreted())
    rows = [x.new_empty(x.shape) for _ in range(1 + plan.separate + len(plan.own))]
    start = torch.stack([part.detach() for part in state])
    end = torch.empty_like(start)
    numbers = numbers_of(kernel, x.dtype, x.device)
    given = [t.detach().resolve_neg().contiguous() for t in inputs]
    _launch(kernel.call, [*given, numbers, start, stacked(constants, x), *rows, end], x.shape)
    first = 1 + plan.separate
    return [*rows[:first], *(part.clone() for part in end), *rows[first:]]


def adjoint(
    g_output: Tensor,
    g_state: Sequence[Tensor],
    constants: Sequence[Tensor],
    read: Sequence[Tensor],
    halves: Sequence[Tensor],
    wants_inputs: bool,
    plan: "Plan",
) -> list[Maybe]:
    """See `derivation.adjoint`."""
    kind = plan.kind
    like, shape = constants[0], g_output.shape
    kernel = backward_kernel(plan, name_of(like), False, wants_inputs, interpreted())
    results = [like.new_empty(shape) for _ in range(kind.inputs if wants_inputs else 0)]
    g_end = torch.stack([g.detach() for g in g_state])
    g_start, sums = torch.empty_like(g_end), like.new_empty(len(kind.wanted), *shape[1:])
    rows = [t.detach().resolve_neg().contiguous() for t in (g_output, *read)]
    numbers = numbers_of(kernel, like.dtype, like.device)
    arrays = [*rows, numbers, g_end, stacked(constants, g_output), *results, g_start, sums]
    _launch(kernel.call, arrays, shape, math.prod(shape) - math.prod(shape[1:]))
    by_input: Sequence[Maybe] = results or [None] * kind.inputs
    return [
        *by_input,
        *g_start.unbind(0),
        *by_constant(sums.sum(1, dtype=torch.float64), constants, kind),
    ]


@lru_cache(maxsize=256)
def numbers_of(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Those of a kernel, on a device: they go there once."""
    return torch.tensor(kernel.numbers, dtype=dtype, device=device)


def stacked(constants: Sequence[Tensor], like: Tensor) -> Tensor:
    """All constants for each neuron, `[C, *N]`."""
    return torch.stack([c.detach().expand(like.shape[2:]) for c in constants])


def by_constant(sums: Tensor, constants: Sequence[Tensor], kind: "Kind") -> list[Maybe]:
    """The sums of the wanted gradients over samples, `[wanted, *N]`, each in the shape of its constant."""
    found: list[Maybe] = [None] * kind.constants
    for k, total in zip(kind.wanted, sums, strict=True):
        found[k] = total.sum_to_size(constants[k].shape).to(constants[k].dtype)
    return found


def _launch(kernel: Any, arrays: Sequence[Tensor], shape: torch.Size, *sizes: int) -> None:
    """Run the kernel on all columns of its arrays, without fusing operations: each is rounded as torch rounds it."""
    columns, neurons = math.prod(shape[1:]), math.prod(shape[2:])
    if columns == 0:
        return
    options = {"BLOCK": _BLOCK, "num_warps": _BLOCK // 32, "enable_fp_fusion": False}
    with torch.cuda.device_of(arrays[0]):  # type: ignore[no-untyped-call]
        kernel[-(-columns // _BLOCK),](*arrays, shape[0], columns, neurons, *sizes, **options)


def name_of(tensor: Tensor) -> str:
    """The name of its numbers' type, as Triton has it."""
    return str(tensor.dtype).removeprefix("torch.")
