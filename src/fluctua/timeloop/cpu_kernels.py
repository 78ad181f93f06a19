"""Numba kernels of the fused CPU loop: the equations of `contract.py` and their adjoint.

A kernel integrates the columns `start:stop` of `[T, M]` arrays, a block at a time, and passes over each array once, a
vector of `simd.py` at a time. So `stop - start` is a multiple of a vector's lanes. All arrays are of one axis; step t
of a row array starts at `t` times its stride. An array that is empty is not wanted: it is neither read nor written.

Kernels are made to measure: the fields of a variant are constants to the compiler, which leaves no branch for them.

No fast-math: every operation of the forward loop is rounded as torch rounds it, so that spikes equal the reference's.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import add, fence, load, load_bfloat16, prefetch, store, store_bfloat16, stream
from fluctua.simd.vectors import Vector, absolute, broadcast, lanes, mul_add, nearest, power_of_two, select
from fluctua.timeloop.contract import SHAPES
from fluctua.timeloop.surrogates import Surrogate

RATIONAL, LOGISTIC, LORENTZIAN = range(3)
_NUMBERS = {"rational": RATIONAL, "logistic": LOGISTIC, "lorentzian": LORENTZIAN}

_LOG2_E = 1 / math.log(2)
# log(2) in two parts, the first with so few digits that a whole number times it is exact.
_LOG2_HIGH = {32: float.fromhex("0x1.62e4p-1"), 64: float.fromhex("0x1.62e42feep-1")}
_LOG2_LOW = {32: 1.4286068203094173e-06, 64: 1.9082149292705877e-10}
# Of the exponential series, from the highest power on: within half of log(2) what is left out is below rounding.
_SERIES = {width: tuple(1 / math.factorial(k) for k in range(n, -1, -1)) for width, n in ((32, 7), (64, 13))}
_LARGEST = {32: 87.0, 64: 708.0}  # exponents beyond do not give a normal number


def shape_of(surrogate: Surrogate) -> tuple[int, float, float]:
    """What the kernels take: shape, slope and height."""
    name, slope, height = SHAPES[type(surrogate)](surrogate.beta)
    return _NUMBERS[name], slope, height


@helper
def surrogate(slope, height, x, shape):  # type: ignore[no-untyped-def]
    """Surrogate at the distance `x` from threshold: `height` at zero, of one of the three shapes."""
    one, z = broadcast(1, x), absolute(x)
    if shape == RATIONAL:
        root = mul_add(broadcast(slope, x), z, one)
        return height / (root * root)
    z = slope * z
    if shape == LORENTZIAN:
        return height / mul_add(z, z, one)
    e = exp_of_minus(z)  # type: ignore[no-untyped-call]
    return height * e / ((1.0 + e) * (1.0 + e))


def exp_of_minus(z):  # type: ignore[no-untyped-def]
    """`exp(-z)` of a vector with `z >= 0`, to a few units in the last place; zero where it is no normal number."""
    raise NotImplementedError("runs in kernels only")


@overload(exp_of_minus)  # type: ignore[no-untyped-call,untyped-decorator]
def _exp_of_minus(z):  # type: ignore[no-untyped-def]
    if not isinstance(z, Vector):
        return None
    width = z.element.bitwidth
    high, low, largest, series = _LOG2_HIGH[width], _LOG2_LOW[width], _LARGEST[width], _SERIES[width]

    def build(z):  # type: ignore[no-untyped-def]
        small = select(z > largest, broadcast(largest, z), z)
        n = nearest(small * -_LOG2_E)
        n = select(n > -largest * 2, n, broadcast(0, z))  # a NaN has no whole number next to it
        r = (-small - n * high) - n * low
        total = broadcast(0, z)
        for coefficient in series:
            total = mul_add(total, r, broadcast(coefficient, z))
        return select(z > largest, broadcast(0, z), total * power_of_two(n))

    return build


BLOCK = 1 << 15  # columns; a multiple of every vector's lanes. Their state stays in the core's cache
STEPS = 3  # of a vector taken at a time, with its state in registers
AHEAD = 512  # columns that are asked for before they are needed

A, B, THETA, RHO, BETA, C = range(6)  # rows of the constants: decays, threshold, and the three of `Adaptation`
NONE, THRESHOLD, CURRENT = range(3)  # what adapts

Kernel = Callable[..., None]


class Forward(NamedTuple):
    """Variant of the forward loop: neurons may have `shared` constants, `hard` is reset to zero."""

    dtype: str
    shared: bool
    exponential: bool
    spiking: bool
    hard: bool
    adapts: int


class Backward(NamedTuple):
    """Variant of the backward loop; `shape` is the surrogate's."""

    dtype: str
    shared: bool
    exponential: bool
    spiking: bool
    hard: bool
    adapts: int
    differentiable: bool
    shape: int


@helper
def constant(rows, row, k, shared, like):  # type: ignore[no-untyped-def]
    """A vector of the constants of one row, from column `k` on, or of the one number that all neurons share."""
    return broadcast(rows[row, 0], like) if shared else load(rows, row * rows.shape[1] + k)


@helper
def spread(constants, lo, width):  # type: ignore[no-untyped-def]
    """Each row's constants for the `width` columns from `lo` on: sample after sample the neurons repeat."""
    neurons = constants.shape[1]
    rows = np.empty((constants.shape[0], width), constants.dtype)
    for row in range(constants.shape[0]):
        k = lo % neurons
        for j in range(width):
            rows[row, j] = constants[row, k]
            k = k + 1 if k + 1 < neurons else 0
    return rows


@helper
def put(array, index, vector, streams):  # type: ignore[no-untyped-def]
    """Write what is not read soon: past the caches where the array allows it."""
    if streams:
        stream(array, index, vector)
    else:
        store(array, index, vector)


@cache
def forward_kernel(variant: Forward) -> Kernel:
    """Loop over time: carries the state `u`, `i`, `w` along in place and fills the row arrays after `x`.

    `current` and `adaptation` get `I[t]` and `w[t]`, `distance` gets `U[t]` less the threshold in bfloat16.
    """
    dtype, shared, exponential, spiking, hard, adapts = variant
    step = lanes(dtype)
    threshold_adapts, current_adapts = adapts == THRESHOLD, adapts == CURRENT

    def forward(  # type: ignore[no-untyped-def]
        constants, u, i, w, x, potential, output, current, adaptation, distance,
        stride_x, stride, steps, start, stop, streams,
    ):  # fmt: skip
        for lo in range(start, stop, BLOCK):
            width = min(BLOCK, stop - lo)
            own = constants if shared else spread(constants, lo, width)
            for begin in range(0, steps, STEPS):
                for k in range(0, width, step):
                    j = lo + k
                    u_t = load(u, j)
                    zero, one = broadcast(0, u_t), broadcast(1, u_t)
                    i_t = load(i, j) if exponential else zero
                    w_t = load(w, j) if adapts else zero
                    a, b = constant(own, A, k, shared, u_t), constant(own, B, k, shared, u_t)
                    theta_0 = constant(own, THETA, k, shared, u_t)
                    for t in range(begin, min(begin + STEPS, steps)):
                        row = t * stride + j
                        prefetch(x, t * stride_x + j + AHEAD)
                        x_t = load(x, t * stride_x + j)
                        put(potential, row, u_t, streams)
                        v = a * u_t + ((1.0 - a) * i_t if exponential else x_t)
                        if current.size:
                            put(current, row, i_t, streams)
                        if exponential:
                            i_t = b * i_t + x_t
                        if spiking:
                            theta = theta_0 + w_t if threshold_adapts else theta_0
                            out = select(u_t > theta, one, zero)
                            put(output, row, out, streams)
                            if distance.size:
                                store_bfloat16(distance, row, u_t - theta)
                            if adapts:
                                if adaptation.size:
                                    put(adaptation, row, w_t, streams)
                                rho = constant(own, RHO, k, shared, u_t)
                                pull = constant(own, BETA, k, shared, u_t) * out
                                if current_adapts:
                                    pull = constant(own, C, k, shared, u_t) * u_t + pull
                                w_t = rho * w_t + (1.0 - rho) * pull
                                if current_adapts:
                                    v = v - (1.0 - a) * w_t
                            v = v * select(u_t > theta, zero, one) if hard else v - theta * out
                        u_t = v
                    store(u, j, u_t)
                    if exponential:
                        store(i, j, i_t)
                    if adapts:
                        store(w, j, w_t)
        fence()

    return _compiled(forward, variant, _signature(dtype, numbers=0, columns=3, inputs="r", outputs="rrrrb"))


@cache
def backward_kernel(variant: Backward) -> Kernel:
    """Adjoint loop: carries the gradients wrt the state along, in place, and adds up those wrt the constants.

    `gout` is the gradient wrt the output, `drive` what enters the potential: `I[t]` or, of a delta synapse, `x[t]`.
    The potential comes as such or as a `distance` from threshold in bfloat16.
    """
    dtype, shared, exponential, spiking, hard, adapts, differentiable, shape = variant
    step = lanes(dtype)
    threshold_adapts, current_adapts = adapts == THRESHOLD, adapts == CURRENT
    through_lost = hard and differentiable  # the gradient passes through what the reset takes away

    def backward(  # type: ignore[no-untyped-def]
        slope, height, constants, gu, gi, gw, ga, gb, gtheta, grho, gbeta, gc,
        gout, potential, drive, adaptation, distance, gx,
        stride_out, stride_potential, stride_drive, stride_adaptation, stride_distance, stride,
        steps, start, stop, streams,
    ):  # fmt: skip
        for lo in range(start, stop, BLOCK):
            width = min(BLOCK, stop - lo)
            own = constants if shared else spread(constants, lo, width)
            for end in range(steps, 0, -STEPS):
                for k in range(0, width, step):
                    j = lo + k
                    gu_t = load(gu, j)
                    zero, one = broadcast(0, gu_t), broadcast(1, gu_t)
                    gi_t = load(gi, j) if exponential else zero
                    gw_t = load(gw, j) if adapts else zero
                    a, b = constant(own, A, k, shared, gu_t), constant(own, B, k, shared, gu_t)
                    theta_0, rho = constant(own, THETA, k, shared, gu_t), constant(own, RHO, k, shared, gu_t)
                    beta, c = constant(own, BETA, k, shared, gu_t), constant(own, C, k, shared, gu_t)
                    by_a, by_b, by_theta, by_rho, by_beta, by_c = zero, zero, zero, zero, zero, zero
                    for t in range(end - 1, max(end - STEPS, 0) - 1, -1):
                        row = t * stride + j
                        prefetch(gout, t * stride_out + j + AHEAD)
                        prefetch(potential, row + AHEAD)
                        g = load(gout, t * stride_out + j)
                        u_t = load(potential, row) if potential.size else zero
                        d_t = load(drive, t * stride_drive + j) if drive.size else zero
                        w_t = load(adaptation, row) if adaptation.size else zero
                        gv, w_next = gu_t, zero
                        if spiking:
                            theta = theta_0 + w_t if threshold_adapts else theta_0
                            x = u_t - theta
                            if distance.size:
                                x = load_bfloat16(distance, row, g)
                                u_t = theta + x
                            out = select(x > 0.0, one, zero)
                            gtheta_t = zero if hard else -(gu_t * out)
                            if hard:
                                gv = gu_t * select(x > 0.0, zero, one)
                            if adapts:
                                pull = c * u_t + beta * out if current_adapts else beta * out
                                w_next = rho * w_t + (1.0 - rho) * pull
                                if current_adapts:
                                    gw_t = gw_t - (1.0 - a) * gv
                            if through_lost:
                                v = a * u_t + ((1.0 - a) * d_t if exponential else d_t)
                                g = g - gu_t * (v - (1.0 - a) * w_next if current_adapts else v)
                            elif differentiable:
                                g = g - gu_t * theta
                            if adapts:
                                g = g + (1.0 - rho) * beta * gw_t
                            g = g * surrogate(slope, height, x, shape)
                            gtheta_t = gtheta_t - g
                            by_theta = by_theta + gtheta_t
                            if adapts:
                                if current_adapts:
                                    g = g + (1.0 - rho) * c * gw_t
                                if grho.size:
                                    by_rho = by_rho + gw_t * (w_t - pull)
                                by_beta = by_beta + gw_t * (1.0 - rho) * out
                                by_c = by_c + gw_t * (1.0 - rho) * u_t
                                gw_t = rho * gw_t + gtheta_t if threshold_adapts else rho * gw_t
                        if ga.size:
                            drawn = u_t - d_t if exponential else u_t
                            by_a = by_a + gv * (drawn + w_next if current_adapts else drawn)
                        if gb.size:
                            by_b = by_b + gi_t * d_t
                        if gx.size:
                            put(gx, row, gi_t if exponential else gv, streams)
                        if exponential:
                            gi_t = mul_add(b, gi_t, (1.0 - a) * gv)
                        gu_t = mul_add(a, gv, g)
                    store(gu, j, gu_t)
                    if exponential:
                        store(gi, j, gi_t)
                    if adapts:
                        store(gw, j, gw_t)
                    add(ga, j, by_a)
                    add(gb, j, by_b)
                    add(gtheta, j, by_theta)
                    add(grho, j, by_rho)
                    add(gbeta, j, by_beta)
                    add(gc, j, by_c)
        fence()

    return _compiled(backward, variant, _signature(dtype, numbers=2, columns=9, inputs="rrrrb", outputs="r"))


def _signature(dtype: str, numbers: int, columns: int, inputs: str, outputs: str) -> Any:
    """So many numbers, constants, so many columns; rows, "r" of the type or "b" in bfloat16; integers and a flag."""
    real = getattr(types, dtype)
    rows = [{"r": real, "b": types.int16}[letter][::1] for letter in inputs + outputs]
    integers = [types.intp] * (len(inputs) + 4)
    return types.void(*[real] * numbers, real[:, ::1], *[real[::1]] * columns, *rows, *integers, types.boolean)


def _compiled(function: Kernel, variant: Forward | Backward, signature: Any) -> Kernel:
    compiled: Kernel = kernel(function, signature, variant="_".join(str(np.asarray(v)) for v in variant))
    return compiled
