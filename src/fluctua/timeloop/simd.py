"""Explicit SIMD for numba: vectors of 64 bytes as values of a kernel, and instructions that plain loops do not give.

A `@njit` kernel loads vectors from contiguous arrays, computes with the ordinary operators and stores the result::

    x = load(array, j)                # float32: 16 lanes, float64: 8
    y = select(x > theta, x - theta, broadcast(zero, x))
    store(out, j, y)

Arithmetic `+ - * /`, unary `-` and the comparisons take two vectors, or a vector and a number, which is converted to
the vector's type and broadcast. A comparison gives a mask, to be joined by `& | ~`, to be used in `select`, or to be
turned into an integer with one bit a lane by `bits`, lane 0 the lowest. A NaN compares as in C: only `!=` holds.
No operation is fused or reordered: each is rounded once, as torch rounds it, but for `fma`, which is one rounding.

LLVM lowers a vector to what the machine has: one AVX-512 register, two of AVX2, four of SSE or NEON, or as many
scalars where there are none. Nothing checks a bound: an index past the end of an array is memory of somebody else.

Measured (performance notes of the project): loops that numba vectorises by itself take 2.6 times as long, for they
use half the register's width and read each line of memory they are about to overwrite; `stream` does not.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

BYTES = 64  # of a vector, and of a cache line


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of 64 bytes of equal numbers."""

    def __init__(self, element: Any) -> None:
        self.element = element
        self.lanes = BYTES * 8 // element.bitwidth
        super().__init__(name=f"Vector({element})")


class Mask(types.Type):  # type: ignore[misc]
    """Numba's type of one truth value a lane."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Mask({lanes})")


def lanes(dtype: Any) -> int:
    """How many numbers of a NumPy type a vector holds."""
    return BYTES // int(np.dtype(dtype).itemsize)


def _instruction(build: Callable[..., Any]) -> Any:
    """A numba intrinsic, untyped as all that is called in a kernel."""
    return intrinsic(build)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(dmm.lookup(fe_type.element).get_value_type(), fe_type.lanes))  # type: ignore[no-untyped-call]


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Mask) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), fe_type.lanes))  # type: ignore[no-untyped-call]


# ---- memory


@_instruction
def load(typingctx, array, index):  # type: ignore[no-untyped-def]
    """The vector that starts at `array[index]`; the array is contiguous, of more axes the index counts through all."""
    if not _is_contiguous(array):
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(context, builder, signature, args), align=_itemsize(array))

    return Vector(array.dtype)(array, index), build


@_instruction
def store(typingctx, array, index, vector):  # type: ignore[no-untyped-def]
    """Write a vector to the memory from `array[index]` on."""
    if not _is_contiguous(array) or vector != Vector(array.dtype):
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _pointer(context, builder, signature, args), align=_itemsize(array))
        return context.get_dummy_value()

    return types.void(array, index, vector), build


@_instruction
def stream(typingctx, array, index, vector):  # type: ignore[no-untyped-def]
    """As `store`, past the caches: for what is not read soon. `array[index]` must lie at a multiple of 64 bytes.

    Such stores may be seen late by other threads: end a kernel that uses them with `fence()`.
    """
    if not _is_contiguous(array) or vector != Vector(array.dtype):
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        instruction = builder.store(args[2], _pointer(context, builder, signature, args), align=BYTES)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(array, index, vector), build


@_instruction
def prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line with `array[index]`; an index outside of the array does nothing."""
    if not _is_contiguous(array):
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        where = builder.bitcast(_pointer(context, builder, signature, args), byte)
        read, keep, data = (ir.Constant(word, number) for number in (0, 3, 1))
        builder.call(function, [where, read, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), build


@_instruction
def fence(typingctx):  # type: ignore[no-untyped-def]
    """Let other threads see all that was stored so far."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build


def _pointer(context: Any, builder: Any, signature: Any, args: Any, vector: Any = None) -> Any:
    """Where a vector of the array's type, or of another that is given, starts."""
    array = signature.args[0]
    data = context.make_array(array)(context, builder, args[0]).data
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    vector = context.get_value_type(Vector(array.dtype)) if vector is None else vector
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _is_contiguous(array: Any) -> bool:
    return isinstance(array, types.Array) and array.layout == "C"


def _itemsize(array: Any) -> int:
    return int(array.dtype.bitwidth) // 8


# ---- memory in bfloat16: the upper half of a float32, kept in arrays of int16


@_instruction
def store_bfloat16(typingctx, array, index, vector):  # type: ignore[no-untyped-def]
    """Write a vector of floating-point numbers, rounded to the nearest bfloat16, to `array[index]` and on."""
    if not _is_contiguous(array) or array.dtype != types.int16:
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        single, word, half = (ir.VectorType(t, vector.lanes) for t in (ir.FloatType(), ir.IntType(32), ir.IntType(16)))
        value = builder.fptrunc(args[2], single) if vector.element == types.float64 else args[2]
        bits_ = builder.bitcast(value, word)
        upper = builder.lshr(bits_, ir.Constant(word, [16] * vector.lanes))
        odd = builder.and_(upper, ir.Constant(word, [1] * vector.lanes))
        up = builder.add(builder.add(bits_, ir.Constant(word, [0x7FFF] * vector.lanes)), odd)  # halves to the even one
        rounded = builder.trunc(builder.lshr(up, ir.Constant(word, [16] * vector.lanes)), half)
        builder.store(rounded, _pointer(context, builder, signature, args, half), align=2)
        return context.get_dummy_value()

    return types.void(array, index, vector), build


@_instruction
def load_bfloat16(typingctx, array, index, like):  # type: ignore[no-untyped-def]
    """The vector of the type of `like` that starts at `array[index]`."""
    if not _is_contiguous(array) or array.dtype != types.int16:
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        single, word, half = (ir.VectorType(t, like.lanes) for t in (ir.FloatType(), ir.IntType(32), ir.IntType(16)))
        upper = builder.load(_pointer(context, builder, signature, args, half), align=2)
        value = builder.bitcast(builder.shl(builder.zext(upper, word), ir.Constant(word, [16] * like.lanes)), single)
        return builder.fpext(value, args[2].type) if like.element == types.float64 else value

    return like(array, index, like), build


# ---- making and choosing vectors


@_instruction
def broadcast(typingctx, number, like):  # type: ignore[no-untyped-def]
    """A vector of the type of `like` with the number in every lane."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _splat(context, builder, args[0], number, like)

    return like(number, like), build


@_instruction
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


# ---- arithmetic


@_instruction
def fma(typingctx, x, y, z):  # type: ignore[no-untyped-def]
    """`x y + z` with one rounding."""
    if not x == y == z:
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _call(builder, "fma", args)

    return x(x, y, z), build


@_instruction
def mul_add(typingctx, x, y, z):  # type: ignore[no-untyped-def]
    """`x y + z`, with one rounding where the machine is quick at that, else with two."""
    if not x == y == z:
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _call(builder, "fmuladd", args)

    return x(x, y, z), build


@_instruction
def absolute(typingctx, x):  # type: ignore[no-untyped-def]
    """`|x|` of floating-point numbers."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _call(builder, "fabs", args)

    return x(x), build


@_instruction
def nearest(typingctx, x):  # type: ignore[no-untyped-def]
    """The nearest whole number, as a vector of floating-point numbers; halves go to the even one."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _call(builder, "rint", args)

    return x(x), build


@_instruction
def power_of_two(typingctx, n):  # type: ignore[no-untyped-def]
    """`2^n` of whole floating-point numbers `n` whose power is a normal number of the type."""
    mantissa, bias = {32: (23, 127), 64: (52, 1023)}[n.element.bitwidth]

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.VectorType(ir.IntType(n.element.bitwidth), n.lanes)
        whole = builder.fptosi(args[0], kind)
        exponent = builder.add(whole, ir.Constant(kind, [bias] * n.lanes))
        return builder.bitcast(builder.shl(exponent, ir.Constant(kind, [mantissa] * n.lanes)), args[0].type)

    return n(n), build


def _call(builder: Any, name: str, args: Any) -> Any:
    """Call LLVM's intrinsic of this name, vectors in, a vector of the same type out."""
    kind = args[0].type
    width = {ir.FloatType(): 32, ir.DoubleType(): 64}[kind.element]
    signature = ir.FunctionType(kind, [kind] * len(args))
    name = f"llvm.{name}.v{kind.count}f{width}"
    function = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call]
    return builder.call(function, args)


def _define(op: Callable[..., Any], gives: Callable[[Any], Any], instruction: Callable[[Any, Any, Any], Any]) -> None:
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
        return instruction(builder, x, y)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, *kinds)(lower)  # type: ignore[no-untyped-call]


def _arithmetic(of_floats: str, of_integers: str | None) -> Callable[[Any, Any, Any], Any]:
    def instruction(builder: Any, x: Any, y: Any) -> Any:
        integers = isinstance(x.type.element, ir.IntType)
        if integers and of_integers is None:
            raise NotImplementedError("vectors of integers have no division")
        return getattr(builder, of_integers if integers and of_integers else of_floats)(x, y)

    return instruction


def _comparison(symbol: str) -> Callable[[Any, Any, Any], Any]:
    def instruction(builder: Any, x: Any, y: Any) -> Any:
        if isinstance(x.type.element, ir.IntType):
            return builder.icmp_signed(symbol, x, y)
        return (builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered)(symbol, x, y)

    return instruction


for _op, _names in {
    operator.add: ("fadd", "add"),
    operator.sub: ("fsub", "sub"),
    operator.mul: ("fmul", "mul"),
    operator.truediv: ("fdiv", None),
}.items():
    _define(_op, lambda vector: vector, _arithmetic(*_names))

for _op, _symbol in {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}.items():
    _define(_op, lambda vector: Mask(vector.lanes), _comparison(_symbol))


@type_callable(operator.neg)  # type: ignore[no-untyped-call]
def _typed_negation(context: Any) -> Callable[[Any], Any]:
    return lambda x: x if isinstance(x, Vector) else None


@lower_builtin(operator.neg, Vector)  # type: ignore[no-untyped-call,untyped-decorator]
def _negated(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return (builder.neg if isinstance(args[0].type.element, ir.IntType) else builder.fneg)(args[0])


# ---- masks


def _define_of_masks(op: Callable[..., Any], name: str, operands: int) -> None:
    @type_callable(op)  # type: ignore[no-untyped-call]
    def typed(context: Any) -> Callable[..., Any]:
        def one(x: Any) -> Any:
            return x if isinstance(x, Mask) else None

        def two(x: Any, y: Any) -> Any:
            return x if isinstance(x, Mask) and x == y else None

        return one if operands == 1 else two

    @lower_builtin(op, *[Mask] * operands)  # type: ignore[no-untyped-call,untyped-decorator]
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)


_define_of_masks(operator.and_, "and_", 2)
_define_of_masks(operator.or_, "or_", 2)
_define_of_masks(operator.invert, "not_", 1)


@_instruction
def bits(typingctx, mask):  # type: ignore[no-untyped-def]
    """An unsigned integer with one bit a lane, lane 0 the lowest; zero where the mask holds nowhere."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        packed = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.zext(packed, ir.IntType(64)) if mask.lanes < 64 else packed

    return types.uint64(mask), build


@_instruction
def trailing_zeros(typingctx, number):  # type: ignore[no-untyped-def]
    """How many zeros an integer ends with: the lane of the first spike in `bits`. Of zero: the integer's width."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        zeros = builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.zext(zeros, ir.IntType(64)) if zeros.type.width < 64 else zeros

    return types.int64(number), build


@_instruction
def as_bits(typingctx, vector):  # type: ignore[no-untyped-def]
    """The same 64 bytes taken as signed integers of the same width."""
    integer = {32: types.int32, 64: types.int64}[vector.element.bitwidth]

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return Vector(integer)(vector), build
