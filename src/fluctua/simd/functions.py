"""Functions of floating-point vectors for which machines have no instruction."""

import math
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.extending import overload

from fluctua.simd.compiling import inlined
from fluctua.simd.vectors import (
    Vector,
    absolute,
    broadcast,
    function_of_vectors,
    instruction,
    mul_add,
    nearest,
    power_of_two,
    select,
)

_LOG2_E = 1 / math.log(2)
# log(2) in two parts, the first with so few digits that its integer multiples are exact.
_LOG2_HIGH = {32: float.fromhex("0x1.62e4p-1"), 64: float.fromhex("0x1.62e42feep-1")}
_LOG2_LOW = {32: 1.4286068203094173e-06, 64: 1.9082149292705877e-10}
# Coefficients of the exponential series, highest power first; within log(2) / 2 the rest is below rounding.
_SERIES = {width: tuple(1 / math.factorial(k) for k in range(n, -1, -1)) for width, n in ((32, 7), (64, 13))}
_LARGEST = {32: 87.0, 64: 708.0}  # larger exponents do not give a normal number


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
        n = select(n > -largest * 2, n, broadcast(0, z))  # a NaN has no nearest integer
        r = (-small - n * high) - n * low
        total = broadcast(0, z)
        for coefficient in series:
            total = mul_add(total, r, broadcast(coefficient, z))
        return select(z > largest, broadcast(0, z), total * power_of_two(n))

    return build


@inlined
def exp_of(x):  # type: ignore[no-untyped-def]
    """`exp(x)`."""
    e = exp_of_minus(absolute(x))  # type: ignore[no-untyped-call]
    return select(x > 0.0, 1.0 / e, e)


@inlined
def sigmoid_of(x):  # type: ignore[no-untyped-def]
    """`1 / (1 + exp(-x))`."""
    e = exp_of_minus(absolute(x))  # type: ignore[no-untyped-call]
    upper = 1.0 / (1.0 + e)
    return select(x > 0.0, upper, e * upper)


@inlined
def larger(x, y):  # type: ignore[no-untyped-def]
    """The greater of two, NaN where one is."""
    return select(x > y, x, select(x != x, x, y))


@inlined
def smaller(x, y):  # type: ignore[no-untyped-def]
    """The lesser of two, NaN where one is."""
    return select(x < y, x, select(x != x, x, y))


log_of, sqrt_of, sin_of, cos_of, floor_of, trunc_of = (
    function_of_vectors(name, 1) for name in ("log", "sqrt", "sin", "cos", "floor", "trunc")
)
round_of = nearest


def _by_lane(name: str) -> Any:
    """A function of the C library, applied lane by lane."""

    @instruction
    def of_one(typingctx, x):  # type: ignore[no-untyped-def]
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (vector,) = args
            element = vector.type.element
            full_name = name if element == ir.DoubleType() else f"{name}f"
            kind = ir.FunctionType(element, [element])
            function = cgutils.get_or_insert_function(builder.module, kind, full_name)  # type: ignore[no-untyped-call]
            for lane in range(vector.type.count):
                at = ir.Constant(ir.IntType(32), lane)
                number = builder.call(function, [builder.extract_element(vector, at)])
                vector = builder.insert_element(vector, number, at)
            return vector

        return x(x), build

    return of_one


tanh_of, erf_of = _by_lane("tanh"), _by_lane("erf")
