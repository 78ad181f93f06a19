"""Surrogates in the CPU kernels."""

import math

from numba.extending import overload

from fluctua.simd.compiling import helper
from fluctua.simd.vectors import Vector, absolute, broadcast, mul_add, nearest, power_of_two, select
from fluctua.timeloop.surrogates import LORENTZIAN, RATIONAL

_LOG2_E = 1 / math.log(2)
# log(2) in two parts, the first with so few digits that a whole number times it is exact.
_LOG2_HIGH = {32: float.fromhex("0x1.62e4p-1"), 64: float.fromhex("0x1.62e42feep-1")}
_LOG2_LOW = {32: 1.4286068203094173e-06, 64: 1.9082149292705877e-10}
# Of the exponential series, from the highest power on: within half of log(2) what is left out is below rounding.
_SERIES = {width: tuple(1 / math.factorial(k) for k in range(n, -1, -1)) for width, n in ((32, 7), (64, 13))}
_LARGEST = {32: 87.0, 64: 708.0}  # exponents beyond do not give a normal number


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
