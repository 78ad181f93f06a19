"""Vectors and masks as values of a numba kernel, their arithmetic and functions.

Arithmetic `+ - * /`, unary `-` and the comparisons take two vectors, or a vector and a number, which is converted to
the vector's type and broadcast. A comparison gives a mask: join masks by `& | ~`, use them in `select`, or turn them
into an integer with one bit per lane by `bits`, lane 0 the lowest. A NaN compares as in C: only `!=` holds. No
operation is fused or reordered: each is rounded once, as in torch, except `mul_add`.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, overload, register_model, type_callable

from fluctua.simd.compiling import config, inlined

BYTES = 64  # of a vector, and of a cache line


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of floating-point numbers, in one vector of 64 bytes or in several side by side."""

    def __init__(self, element: Any, vectors: int = 1) -> None:
        self.element = element
        self.lanes = vectors * BYTES * 8 // element.bitwidth
        super().__init__(name=f"Vector({element}, {vectors})")


class Mask(types.Type):  # type: ignore[misc]
    """Numba's type of one truth value per lane."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Mask({lanes})")


def lanes(dtype: Any) -> int:
    """How many numbers of a NumPy type a vector holds."""
    return BYTES // int(np.dtype(dtype).itemsize)


def stores_lines() -> bool:
    """Whether kernels store a vector, a whole cache line, by one instruction."""
    features = config.CPU_FEATURES
    return "+avx512f" in (get_host_cpu_features().flatten() if features is None else features)


def width_of(n: int, dtype: Any) -> int:
    """Size of n numbers, padded to whole vectors."""
    return -(-n // lanes(dtype)) * lanes(dtype)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(dmm.lookup(fe_type.element).get_value_type(), fe_type.lanes))  # type: ignore[no-untyped-call]


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Mask) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), fe_type.lanes))  # type: ignore[no-untyped-call]


def instruction(build: Callable[..., Any]) -> Any:
    """A numba intrinsic, untyped like everything called in a kernel."""
    return intrinsic(build)


# ---- making and choosing vectors


@instruction
def broadcast(typingctx, number, like):  # type: ignore[no-untyped-def]
    """A vector of the type of `like` with the number in every lane."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _splat(context, builder, args[0], number, like)

    return like(number, like), build


@instruction
def select(typingctx, mask, yes, no):  # type: ignore[no-untyped-def]
    """Lane by lane `yes` where the mask holds, else `no`."""
    if yes != no or mask != Mask(yes.lanes):
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(*args)

    return yes(mask, yes, no), build


def _splat(context: Any, builder: Any, value: Any, source: Any, vector: Any) -> Any:
    value = context.cast(builder, value, source, vector.element)
    kind = context.get_value_type(vector)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    lanes_of_first = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes_of_first)


# ---- functions of floating-point numbers


def function_of_vectors(name: str, operands: int) -> Any:
    """LLVM's function of this name: vectors in, a vector of the same type out."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        width = {ir.FloatType(): 32, ir.DoubleType(): 64}[kind.element]
        of_vectors = ir.FunctionType(kind, [kind] * operands)
        full_name = f"llvm.{name}.v{kind.count}f{width}"
        function = cgutils.get_or_insert_function(builder.module, of_vectors, full_name)  # type: ignore[no-untyped-call]
        return builder.call(function, args)

    def of_one(typingctx, x):  # type: ignore[no-untyped-def]
        return x(x), build

    def of_three(typingctx, x, y, z):  # type: ignore[no-untyped-def]
        return (x(x, y, z), build) if x == y == z else None

    return instruction(of_one) if operands == 1 else instruction(of_three)


mul_add = function_of_vectors("fmuladd", 3)
"""`x y + z`, with one rounding if the machine does that fast, else with two."""

absolute = function_of_vectors("fabs", 1)
"""`|x|`."""

nearest = function_of_vectors("rint", 1)
"""The nearest whole number; ties to even."""


@instruction
def power_of_two(typingctx, n):  # type: ignore[no-untyped-def]
    """`2^n` for whole floating-point numbers `n`, if it is a normal number of the type."""
    mantissa, bias = {32: (23, 127), 64: (52, 1023)}[n.element.bitwidth]

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.VectorType(ir.IntType(n.element.bitwidth), n.lanes)
        whole = builder.fptosi(args[0], kind)
        exponent = builder.add(whole, ir.Constant(kind, [bias] * n.lanes))
        return builder.bitcast(builder.shl(exponent, ir.Constant(kind, [mantissa] * n.lanes)), args[0].type)

    return n(n), build


# ---- operators


def _define(op: Callable[..., Any], gives: Callable[[Any], Any], instruct: Callable[[Any, Any, Any], Any]) -> None:
    """Teach numba an operator of two vectors, or of a vector and a number on either side."""

    @type_callable(op)  # type: ignore[no-untyped-call]
    def typed(context: Any) -> Callable[[Any, Any], Any]:
        def result(x: Any, y: Any) -> Any:
            vectors = [v for v in (x, y) if isinstance(v, Vector)]
            fits = all(v == vectors[0] or isinstance(v, types.Number) for v in (x, y)) if vectors else False
            return gives(vectors[0]) if fits else None

        return result

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = next(kind for kind in signature.args if isinstance(kind, Vector))
        x, y = (
            value if kind == vector else _splat(context, builder, value, kind, vector)
            for value, kind in zip(args, signature.args, strict=True)
        )
        return instruct(builder, x, y)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, *kinds)(lower)  # type: ignore[no-untyped-call]


def _instruction(name: str, *symbol: str) -> Callable[[Any, Any, Any], Any]:
    return lambda builder, x, y: getattr(builder, name)(*symbol, x, y)


for _op in ("add", "sub", "mul", "truediv"):
    _define(getattr(operator, _op), lambda vector: vector, _instruction(f"f{_op.removeprefix('true')}"))

for _op, _symbol in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items():
    _compared = "fcmp_unordered" if _op == "ne" else "fcmp_ordered"
    _define(getattr(operator, _op), lambda vector: Mask(vector.lanes), _instruction(_compared, _symbol))


def _define_alike(op: Callable[..., Any], kind: type[types.Type], name: str, operands: int) -> None:
    """Teach numba an operator of one vector or mask, or of two of the same type, that is one instruction of LLVM."""

    @type_callable(op)  # type: ignore[no-untyped-call]
    def typed(context: Any) -> Callable[..., Any]:
        def one(x: Any) -> Any:
            return x if isinstance(x, kind) else None

        def two(x: Any, y: Any) -> Any:
            return x if isinstance(x, kind) and x == y else None

        return one if operands == 1 else two

    @lower_builtin(op, *[kind] * operands)  # type: ignore[no-untyped-call,untyped-decorator]
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)


_define_alike(operator.neg, Vector, "fneg", 1)
_define_alike(operator.and_, Mask, "and_", 2)
_define_alike(operator.or_, Mask, "or_", 2)
_define_alike(operator.invert, Mask, "not_", 1)


# ---- masks


@instruction
def bits(typingctx, mask):  # type: ignore[no-untyped-def]
    """An unsigned integer with one bit per lane, lane 0 the lowest; zero if the mask holds nowhere."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        packed = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.zext(packed, ir.IntType(64)) if mask.lanes < 64 else packed

    return types.uint64(mask), build


@instruction
def trailing_zeros(typingctx, number):  # type: ignore[no-untyped-def]
    """Number of trailing zeros of an integer: the lane of the first spike in `bits`. For zero: its width."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        zeros = builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.zext(zeros, ir.IntType(64)) if zeros.type.width < 64 else zeros

    return types.int64(number), build


# ---- functions for which machines have no instruction

_LOG2_E = 1 / math.log(2)
# log(2) in two parts, the first with so few digits that its integer multiples are exact.
_LOG2_HIGH = {32: float.fromhex("0x1.62e4p-1"), 64: float.fromhex("0x1.62e42feep-1")}
_LOG2_LOW = {32: 1.4286068203094173e-06, 64: 1.9082149292705877e-10}
# Coefficients of the exponential series, highest power first; within log(2) / 2 the rest is below rounding.
_SERIES = {width: tuple(1 / math.factorial(k) for k in range(n, -1, -1)) for width, n in ((32, 7), (64, 13))}
# Beyond these ends the result is zero or infinite.
_ENDS = {32: (-104.0, 89.0), 64: (-746.0, 710.0)}


def exp_of(x):  # type: ignore[no-untyped-def]
    """`exp(x)` of a vector, to a few units in the last place."""
    raise NotImplementedError("runs in kernels only")


@overload(exp_of)  # type: ignore[no-untyped-call,untyped-decorator]
def _exp_of(x):  # type: ignore[no-untyped-def]
    if not isinstance(x, Vector):
        return None
    width = x.element.bitwidth
    high, low, (least, most), series = _LOG2_HIGH[width], _LOG2_LOW[width], _ENDS[width], _SERIES[width]

    def build(x):  # type: ignore[no-untyped-def]
        z = select(x < least, broadcast(least, x), select(x > most, broadcast(most, x), x))
        n = select(x == x, nearest(z * _LOG2_E), broadcast(0, x))  # a NaN has no nearest integer
        r = (z - n * high) - n * low
        total = broadcast(0, x)
        for coefficient in series:
            total = mul_add(total, r, broadcast(coefficient, x))
        half = nearest(n * 0.5)  # 2^n may be too large or small for the type where the result is not
        return total * power_of_two(half) * power_of_two(n - half)

    return build


@inlined
def sigmoid_of(x):  # type: ignore[no-untyped-def]
    """`1 / (1 + exp(-x))`."""
    e = exp_of(-absolute(x))  # type: ignore[no-untyped-call]
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
