"""A square of vectors turned around in registers, for kernels that change the order of axes."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from fluctua.timeloop.simd import Vector


def _turn(typingctx, source, at, step, target, to, stride):  # type: ignore[no-untyped-def]
    """Rows become columns: `target[to + j * stride + i] = source[at + i * step + j]` for all i and j below `lanes`.

    Both arrays are contiguous and of one type. Nothing checks a bound.
    """
    arrays = source, target
    if any(not isinstance(a, types.Array) or a.layout != "C" or a.dtype != source.dtype for a in arrays):
        return None
    vector = Vector(source.dtype)
    n, size = vector.lanes, source.dtype.bitwidth // 8

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector).as_pointer()

        def numbers(k: int) -> Any:
            return context.cast(builder, args[k], signature.args[k], types.intp)

        def pointers(k: int) -> list[Any]:
            """Where the n vectors of the array at argument k start."""
            data = context.make_array(signature.args[k])(context, builder, args[k]).data
            begin, distance = numbers(k + 1), numbers(k + 2)
            starts = [builder.add(begin, builder.mul(distance, distance.type(i))) for i in range(n)]
            return [builder.bitcast(builder.gep(data, [start]), kind) for start in starts]

        rows = [builder.load(pointer, align=size) for pointer in pointers(0)]
        zipped = [ir.Constant(ir.VectorType(ir.IntType(32), n), _zip(half, n)) for half in (0, n // 2)]
        # Zip row i with row i + n/2: after log2(n) rounds each row has gone through all halvings, and is a column.
        for _ in range(n.bit_length() - 1):
            pairs = zip(rows[: n // 2], rows[n // 2 :], strict=True)
            rows = [builder.shuffle_vector(a, b, mask) for a, b in pairs for mask in zipped]
        for row, pointer in zip(rows, pointers(3), strict=True):
            builder.store(row, pointer, align=size)
        return context.get_dummy_value()

    return types.void(source, at, step, target, to, stride), build


turn: Any = intrinsic(_turn)
"""See `_turn`; untyped, as all that is called in a kernel."""


def _zip(first: int, n: int) -> list[int]:
    """Lanes of two vectors of n, taken in turns, from lane `first` on."""
    return [lane for k in range(first, first + n // 2) for lane in (k, n + k)]
