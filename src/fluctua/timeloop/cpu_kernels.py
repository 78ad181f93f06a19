"""Numba kernels of the fused CPU loop: the equations of `contract.py` and their adjoint.

A kernel integrates the columns `start:stop` of `[T, M]` arrays, a block at a time: the state of a block stays in
the core's cache while time runs, and each array is passed over once. Kernels are made to measure: the fields of a
variant are constants to the compiler, which leaves no branch in the inner loop and reads no array it does not need.

No fast-math: every operation is rounded as torch rounds it, so that spikes equal the reference's.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

BLOCK = 1 << 15  # columns: long rows stream from memory best; a quarter of a megabyte of state stays in L2

RATIONAL, LOGISTIC, LORENTZIAN = range(3)  # shapes of a surrogate

Kernel = Callable[..., None]


class Forward(NamedTuple):
    """Variant of the forward loop: neurons may have `shared` constants, `hard` is reset to zero, `records` keeps I."""

    dtype: str
    shared: bool
    exponential: bool
    spiking: bool
    hard: bool
    records: bool


class Backward(NamedTuple):
    """Variant of the backward loop; `shape` is the surrogate's, the last two say which gradients are wanted."""

    dtype: str
    shared: bool
    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    shape: int
    learnable: bool
    wants_input: bool


@cache
def forward_kernel(variant: Forward) -> Kernel:
    """Loop over time: carries the state `u`, `i` `[M]` along in place and fills the arrays after `x` `[T, M]`."""
    dtype, shared, exponential, spiking, hard, records = variant
    one = np.dtype(dtype).type(1)  # of the arrays' type: with a plain 1 numba would go on in float64
    zero = one - one

    def forward(decay_mem, decay_syn, threshold, u, i, x, potential, output, current, start, stop):  # type: ignore[no-untyped-def]
        a, b, theta = decay_mem[0], decay_syn[0], threshold[0]
        for lo in range(start, stop, BLOCK):
            hi = min(lo + BLOCK, stop)
            n = 0 if shared else hi - lo
            a_, b_, theta_ = _spread(decay_mem, lo, n), _spread(decay_syn, lo, n), _spread(threshold, lo, n)
            u_, i_ = u[lo:hi], i[lo:hi]
            for t in range(x.shape[0]):
                x_t, u_t, out_t, i_t = x[t, lo:hi], potential[t, lo:hi], output[t, lo:hi], current[t, lo:hi]
                for j in range(hi - lo):
                    if not shared:
                        a, b, theta = a_[j], b_[j], theta_[j]
                    u_t[j] = u_[j]
                    v = a * u_[j] + ((one - a) * i_[j] if exponential else x_t[j])
                    if spiking:
                        out = one if u_[j] > theta else zero
                        out_t[j] = out
                        v = v * (one - out) if hard else v - theta * out
                    u_[j] = v
                    if records:
                        i_t[j] = i_[j]
                    if exponential:
                        i_[j] = b * i_[j] + x_t[j]

    return _compiled(forward, variant, _signature(dtype, vectors=5, scalars=0, arrays=4))


@cache
def backward_kernel(variant: Backward) -> Kernel:
    """Adjoint loop: carries the gradients wrt the state along, in place, and sums up those wrt the decays, all `[M]`.

    `gout` is the gradient wrt the output, `drive` what enters the potential, `I[t]` or, of a delta synapse, `x[t]`.
    """
    dtype, shared, exponential, spiking, hard, differentiable, shape, learnable, wants_input = variant
    one = np.dtype(dtype).type(1)
    zero = one - one

    def backward(  # type: ignore[no-untyped-def]
        decay_mem, decay_syn, threshold, gu, gi, ga, gb, slope, height, gout, potential, drive, gx, start, stop
    ):
        a, b, theta = decay_mem[0], decay_syn[0], threshold[0]
        for lo in range(start, stop, BLOCK):
            hi = min(lo + BLOCK, stop)
            n = 0 if shared else hi - lo
            a_, b_, theta_ = _spread(decay_mem, lo, n), _spread(decay_syn, lo, n), _spread(threshold, lo, n)
            gu_, gi_, ga_, gb_ = gu[lo:hi], gi[lo:hi], ga[lo:hi], gb[lo:hi]
            for t in range(gout.shape[0] - 1, -1, -1):
                g_t, u_t, d_t, gx_t = gout[t, lo:hi], potential[t, lo:hi], drive[t, lo:hi], gx[t, lo:hi]
                for j in range(hi - lo):
                    if not shared:
                        a, b, theta = a_[j], b_[j], theta_[j]
                    g, gv = g_t[j], gu_[j]
                    if spiking:
                        x = u_t[j] - theta
                        if differentiable and hard:
                            g -= gu_[j] * (a * u_t[j] + ((one - a) * d_t[j] if exponential else d_t[j]))
                        elif differentiable:
                            g -= gu_[j] * theta
                        if hard:
                            gv *= zero if u_t[j] > theta else one
                        g *= height * _surrogate(slope * abs(x), one, shape)
                    gu_[j] = a * gv + g
                    if learnable:
                        ga_[j] += gv * (u_t[j] - d_t[j] if exponential else u_t[j])
                    if learnable and exponential:
                        gb_[j] += gi_[j] * d_t[j]
                    if wants_input:
                        gx_t[j] = gi_[j] if exponential else gv
                    if exponential:
                        gi_[j] = (one - a) * gv + b * gi_[j]

    return _compiled(backward, variant, _signature(dtype, vectors=7, scalars=2, arrays=4))


@njit(nogil=True, error_model="numpy")
def _surrogate(z, one, shape):  # type: ignore[no-untyped-def]
    """Surrogate of slope and height 1 at the distance `z >= 0` from threshold."""
    if shape == RATIONAL:
        return one / ((one + z) * (one + z))
    if shape == LORENTZIAN:
        return one / (one + z * z)
    e = math.exp(-z)
    return e / ((one + e) * (one + e))


@njit(nogil=True, error_model="numpy")
def _spread(source, lo, n):  # type: ignore[no-untyped-def]
    """A constant for each of the `n` columns from `lo` on, from the values of one sample's neurons or one for all."""
    row = np.empty(n, source.dtype)
    k = lo % source.size
    for j in range(n):
        row[j] = source[k]
        k = k + 1 if k + 1 < source.size else 0
    return row


def _signature(dtype: str, vectors: int, scalars: int, arrays: int) -> Any:
    real = getattr(types, dtype)
    parameters = [real[::1]] * vectors + [real] * scalars + [real[:, ::1]] * arrays
    return types.void(*parameters, types.intp, types.intp)


def _compiled(kernel: Kernel, variant: tuple[object, ...], signature: Any) -> Kernel:
    """Machine code of the kernel, kept on disk where that is possible."""
    # Numba names its cache files by the qualified name: with one name a variant, none can be taken for another.
    kernel.__qualname__ = "_".join([kernel.__name__, *map(str, variant)])
    try:
        return njit(signature, nogil=True, error_model="numpy", cache=True)(kernel)  # type: ignore[no-any-return]
    except (OSError, RuntimeError):  # the cache folder cannot be written, or the disk is full
        return njit(signature, nogil=True, error_model="numpy")(kernel)  # type: ignore[no-any-return]
