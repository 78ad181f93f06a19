"""The fused time loop on the CPU: one pass over memory forward, one backward, over all cores.

Neurons and samples are alike to the loop, so a current `[T, B, *N]` is taken as `[T, M]` and its columns are split
over threads. No column knows of another: the number of threads cannot change a result.
"""

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fluctua.timeloop.contract import LoopParameters, LoopResult, State
from fluctua.timeloop.cpu_kernels import (
    LOGISTIC,
    LORENTZIAN,
    RATIONAL,
    Backward,
    Forward,
    Kernel,
    backward_kernel,
    forward_kernel,
)
from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike, Surrogate

Array = NDArray[Any]

_GRAIN = 1 << 16  # elements worth waking a thread for
_LINE = 16  # columns: threads share no cache line
_HUGE = 1 << 21  # bytes of a huge page

# Shape, slope and height of a surrogate, from its steepness beta.
_SURROGATES: dict[type[Surrogate], Callable[[float], tuple[int, float, float]]] = {
    SuperSpike: lambda beta: (RATIONAL, beta, 1.0),
    SigmoidDerivative: lambda beta: (LOGISTIC, beta, beta),
    ArcTan: lambda beta: (LORENTZIAN, math.pi / 2 * beta, beta / 2),
}


class CpuEngine:
    """Serves float32 and float64 with the surrogates of this package; see `refusal`."""

    name = "cpu"

    def refusal(self, current: Tensor, parameters: LoopParameters) -> str | None:
        """See `Engine.refusal`."""
        p = parameters
        if p.adaptation is not None:
            return "it has no loop for a population that adapts"
        constants = [c for c in (p.decay_mem, p.decay_syn, p.threshold) if c is not None]
        if any(_is_unusual(tensor) for tensor in (current, *constants)):
            return "it takes plain CPU tensors, not subclasses, sparse or dual tensors, nor those of torch.func"
        if current.dtype not in (torch.float32, torch.float64):
            return f"it computes in float32 and float64, not {current.dtype}"
        if any(c.dtype != current.dtype for c in constants):
            return f"a constant is not of the current's type {current.dtype}"
        if not all(_broadcasts(c.shape, current.shape[2:]) for c in constants):
            return f"a constant does not broadcast to the population's shape {tuple(current.shape[2:])}"
        if p.threshold is None:
            return None
        if p.threshold.requires_grad and torch.is_grad_enabled():
            return "it has no gradient with respect to the threshold"
        if type(p.surrogate) not in _SURROGATES:
            return f"it does not know the surrogate {type(p.surrogate).__name__}"
        return None

    def run(self, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
        """See `Engine.run`."""
        p = parameters
        i0 = None if p.decay_syn is None else state.current
        inputs = (current, state.potential, i0, p.decay_mem, p.decay_syn, p.threshold)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
            potential, output, u, i, _ = _Loop.apply(*inputs, _Kind.of(p, trains=True))  # type: ignore[no-untyped-call]
        else:
            potential, output, u, i, _ = _integrate(*inputs, _Kind.of(p, trains=False))
        return LoopResult(output if p.spiking else potential, potential, State(u, state.current if i is None else i))


class _Kind(NamedTuple):
    """What there is to do, numbers apart; an option without effect is off, which saves compiling."""

    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    records: bool
    surrogate: Surrogate

    @classmethod
    def of(cls, p: LoopParameters, trains: bool) -> "_Kind":
        exponential, spiking = p.decay_syn is not None, p.spiking
        hard = spiking and p.reset == "zero"
        differentiable = spiking and p.differentiable_reset
        records = trains and exponential and (p.learnable or (hard and differentiable))
        return cls(exponential, spiking, hard, differentiable, records, p.surrogate)

    @property
    def equations(self) -> tuple[bool, bool, bool, bool]:
        return self.exponential, self.spiking, self.hard, self.differentiable


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor | None, ...]:
        return _integrate(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, _, _, a, b, theta, kind = inputs
        potential, _, _, _, record = output
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.shape = kind, x.shape
        drive = x if kind.differentiable and kind.hard and not kind.exponential else record
        learnable = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        ctx.save_for_backward(a, b, theta, potential if kind.spiking or learnable else None, drive)
        ctx.mark_non_differentiable(*([potential] if kind.spiking else []), *([] if record is None else [record]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = _adjoint(ctx, grads)
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = _Once.apply(*(g if g is None else g.requires_grad_() for g in gradients))  # type: ignore[no-untyped-call]
        return *gradients, None, None


class _Once(torch.autograd.Function):
    """Identity that refuses to be differentiated; torch's `once_differentiable` lets constant gradients through."""

    @staticmethod
    def forward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(g if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            "the fused time loop can be differentiated only once; for second derivatives run the network "
            "within `with fluctua.timeloop.engine('reference'):`"
        )


def _integrate(
    x: Tensor, u0: Tensor, i0: Tensor | None, a: Tensor, b: Tensor | None, theta: Tensor | None, kind: _Kind
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Potential, output of a spiking population, final state, and the currents if they are recorded."""
    potential = _empty(x.shape, x.dtype)
    output = _empty(x.shape, x.dtype) if kind.spiking else None
    record = _empty(x.shape, x.dtype) if kind.records else None
    u, i = _copy(u0), None if i0 is None else _copy(i0)
    constants = _constants(a, b, theta, x.shape[2:])
    kernel = forward_kernel(Forward(_name(x.dtype), _shared(constants), *kind.equations[:3], kind.records))
    columns = [_column(u if t is None else t) for t in (u, i)]  # what a variant does not touch is given any array
    rows = [_rows(potential if t is None else t) for t in (x, potential, output, record)]
    _over_columns(kernel, *constants, *columns, *rows)
    return potential, output, u, i, record


def _adjoint(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Gradients with respect to the current, the initial state and the decays, where they are asked for."""
    kind: _Kind = ctx.kind
    g_potential, g_output, g_u, g_i, _ = grads
    wants_x, wants_u, wants_i, wants_a, wants_b, *_rest = ctx.needs_input_grad
    a, b, theta, potential, drive = ctx.saved_tensors
    g_out = g_output if kind.spiking else g_potential
    if g_out is None:  # only the final state was used
        g_out = torch.zeros(ctx.shape, dtype=a.dtype)
    gx = _empty(ctx.shape, a.dtype) if wants_x else None
    gu, gi, ga, gb = (_copy(t) if t is not None else g_out.new_zeros(ctx.shape[1:]) for t in (g_u, g_i, None, None))
    shape, *scale = _SURROGATES[type(kind.surrogate)](kind.surrogate.beta) if kind.spiking else (RATIONAL, 0.0, 0.0)
    constants = _constants(a, b, theta, ctx.shape[2:])
    variant = Backward(_name(a.dtype), _shared(constants), *kind.equations, shape, wants_a or wants_b, wants_x)
    columns = [_column(t) for t in (gu, gi, ga, gb)]
    rows = [_rows(g_out if t is None else t) for t in (g_out, potential, drive, gx)]
    _over_columns(backward_kernel(variant), *constants, *columns, *scale, *rows)
    return (
        gx,
        gu if wants_u else None,
        gi if wants_i else None,
        _summed(ga, a) if wants_a else None,
        _summed(gb, b) if wants_b else None,
    )


def _over_columns(kernel: Kernel, *arguments: Any) -> None:
    """Run the kernel on all columns of its arrays, split over as many threads as torch uses."""
    steps, columns = arguments[-1].shape
    if columns == 0:
        return
    workers = max(1, min(torch.get_num_threads(), steps * columns // _GRAIN))
    share = -(-columns // (workers * _LINE)) * _LINE
    first, *others = [(lo, min(lo + share, columns)) for lo in range(0, columns, share)]
    jobs = [_pool(os.getpid(), torch.get_num_threads()).submit(kernel, *arguments, *span) for span in others]
    kernel(*arguments, *first)
    for job in jobs:
        job.result()


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """Helpers of the calling thread. A forked process gets its own: threads do not survive a fork."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="fluctua")


def _empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory to fill, on huge pages where the system has them: page faults cost more than the loop itself."""
    tensor = torch.empty(shape, dtype=dtype)
    start = -(-tensor.data_ptr() // _HUGE) * _HUGE
    length = (tensor.data_ptr() + tensor.nbytes) // _HUGE * _HUGE - start
    if length > 0 and sys.platform == "linux":
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return tensor


def _constants(a: Tensor, b: Tensor | None, theta: Tensor | None, shape: torch.Size) -> list[Array]:
    """Decays and threshold, each as one value or as one for each neuron; what is missing is not read."""
    given = (a if c is None else c for c in (a, b, theta))
    return [_column(c if c.numel() == 1 else c.expand(shape)) for c in given]


def _shared(constants: list[Array]) -> bool:
    return all(c.size == 1 for c in constants)


def _copy(tensor: Tensor) -> Tensor:
    """Contiguous memory of its own for a state: the loop carries it along in place."""
    return torch.empty_like(tensor, requires_grad=False, memory_format=torch.contiguous_format).copy_(tensor.detach())


def _summed(gradient: Tensor, constant: Tensor) -> Tensor:
    """Sum over the batch and over the neurons that share a value of the constant."""
    # By NumPy in double precision: the order in which torch sums depends on the number of threads.
    g = gradient.numpy().sum(0, dtype=np.float64)
    padded = (1,) * (g.ndim - constant.ndim) + constant.shape
    shared = tuple(axis for axis, size in enumerate(padded) if size == 1)
    return torch.as_tensor(g.sum(shared), dtype=constant.dtype).reshape(constant.shape)


def _is_unusual(tensor: Tensor) -> bool:
    return (
        type(tensor) not in (Tensor, Parameter)
        or tensor.device.type != "cpu"
        or tensor.layout != torch.strided
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
    )


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to), strict=False))


def _rows(tensor: Tensor) -> Array:
    """Memory of `[T, B, *N]` as `[T, M]`, a copy only where it is not contiguous."""
    return _column(tensor).reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def _column(tensor: Tensor) -> Array:
    return tensor.detach().resolve_neg().contiguous().numpy().reshape(-1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
