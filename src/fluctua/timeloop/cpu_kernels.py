"""Numba kernels of the fused CPU loop: the equations of `contract.py` and their adjoint.

A kernel integrates the columns `start:stop` of `[T, M]` arrays, a block at a time: the state of a block stays in
the L1 cache while time runs, and every array is passed over once. Kernels are made to measure: the fields of a
variant are compile-time constants, so that no branch is left in the inner loop.

No fast-math: every operation is rounded as torch rounds it, so that spikes equal the reference's.
"""

import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

BLOCK = 2048  # columns: longer rows stream better from memory, shorter ones leave more of L1 free

RATIONAL, LOGISTIC, LORENTZIAN = range(3)  # shapes of a surrogate

Kernel = Callable[..., None]


class Forward(NamedTuple):
    """Variant of the forward loop: number type, synapse, threshold, reset to zero, whether `I` is recorded."""

    dtype: str
    exponential: bool
    spiking: bool
    hard: bool
    records: bool


class Backward(NamedTuple):
    """Variant of the backward loop; `shape` is the surrogate's, the last two say which gradients are wanted."""

    dtype: str
    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    shape: int
    learnable: bool
    wants_input: bool


# --- one neuron, one step: constants of the array's own type, or numba would go on in float64 ---


@njit(nogil=True, error_model="numpy")
def _step(u, i, x, a, b, theta, one, exponential, spiking, hard):  # type: ignore[no-untyped-def]
    """Spike, and the state after the step."""
    out = one if spiking and u > theta else one - one
    v = a * u + ((one - a) * i if exponential else x)
    if spiking:
        v = v * (one - out) if hard else v - theta * out
    return out, v, b * i + x


@njit(nogil=True, error_model="numpy")
def _surrogate(z, one, shape):  # type: ignore[no-untyped-def]
    """Surrogate of unit slope and height at the distance `z >= 0` from threshold."""
    if shape == RATIONAL:
        return one / ((one + z) * (one + z))
    if shape == LORENTZIAN:
        return one / (one + z * z)
    e = math.exp(-z)
    return e / ((one + e) * (one + e))


@njit(nogil=True, error_model="numpy")
def _reset_adjoint(gu, gout, u, v, theta, surrogate, one, hard, differentiable):  # type: ignore[no-untyped-def]
    """Gradient wrt `V[t]`, and the part of that wrt `U[t]` that goes through the spike."""
    if differentiable:
        gout = gout - gu * (v if hard else theta)
    gv = gu * (zero_if(u > theta)) if hard else gu
    return gv, surrogate * gout
