"""Large products of matrices on the CPU, by the quicker of two libraries that torch carries.

Torch asks MKL, which leaves AVX-512 alone on a processor that is not Intel's. oneDNN, by which torch convolves, uses
it: a product takes half the time on AMD's Zen 5, and equals the other but for the last bits of its sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluctua.timeloop.contract import Maybe, Operation, apply

_LEAST = 1 << 22  # products of two numbers, below which a call costs more than it gains

_ROWS = 1024  # that oneDNN gets at a time, so that what it gives stays in the cache until it is copied


def times(a: Tensor, b: Tensor, bias: Maybe = None) -> Tensor:
    """`a @ b`, and a bias for each column, of plain matrices on the CPU, without a gradient."""
    quicker = _quicker(a.shape[0] * b.numel(), a.dtype)
    return _by_onednn(a, b, bias) if quicker else F.linear(a, b.t(), bias)


def put(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write `a @ b` to a matrix."""
    if not _quicker(min(len(a), _ROWS) * b.numel(), a.dtype):
        torch.mm(a, b, out=out)
        return
    for rows, part in zip(out.split(_ROWS), a.split(_ROWS), strict=True):  # type: ignore[no-untyped-call]
        rows.copy_(_by_onednn(part, b))


def _by_onednn(a: Tensor, b: Tensor, bias: Maybe = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return found


def linear(x: Tensor, weight: Tensor, bias: Maybe) -> Tensor:
    """As torch's, of plain tensors on the CPU, `x` of any shape `[..., N]`."""
    if not _quicker(x.numel() * len(weight), x.dtype):
        return F.linear(x, weight, bias)
    rows: Tensor = apply(_Linear(), (x.reshape(-1, x.shape[-1]), weight, bias))[0]
    return rows.view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class _Linear(Operation):
    """See `contract.Operation`: of rows, weight and bias."""

    called = "a product of matrices"

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        x, weight, bias = tensors
        return [times(x, weight.t(), bias)]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Tensor]:
        return tensors[:2]

    def back(self, kept: Sequence[Tensor], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (x, weight), g = kept, grads[0].contiguous()
        return (
            times(g, weight) if wanted[0] else None,
            times(g.t(), x) if wanted[1] else None,
            g.sum(0) if wanted[2] else None,
        )


def _quicker(size: int, dtype: torch.dtype) -> bool:
    """Whether oneDNN is the quicker one for so many products of numbers."""
    large = size >= _LEAST and dtype == torch.float32
    return large and _has_unused_vectors() and bool(torch.backends.mkldnn.enabled)


@cache
def _has_unused_vectors() -> bool:
    from llvmlite.binding import get_host_cpu_name  # type: ignore[import-untyped]  # with numba

    amd = get_host_cpu_name().startswith("znver")
    return amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and torch._C._has_mkldnn
