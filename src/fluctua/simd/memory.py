"""Vectors from and to memory, in contiguous arrays with one index through all axes."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types

from fluctua.simd.compiling import inlined
from fluctua.simd.vectors import BYTES, Vector, instruction, stores_lines


def _loading(vectors: int) -> Any:
    def load(typingctx, array, index):  # type: ignore[no-untyped-def]
        if not _is_contiguous(array):
            return None
        kind = Vector(array.dtype, vectors)

        def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer = _pointer(context, builder, signature, args, context.get_value_type(kind))
            return builder.load(pointer, align=_itemsize(array))

        return kind(array, index), build

    return instruction(load)


load = _loading(1)
"""`load(array, index)`: the vector that starts at `array[index]`."""

load2 = _loading(2)
"""As `load`, two vectors as one."""

load4 = _loading(4)
"""As `load`, four vectors as one."""


def _storing(past_caches: bool) -> Any:
    def store(typingctx, array, index, vector):  # type: ignore[no-untyped-def]
        if not _is_contiguous(array) or not isinstance(vector, Vector) or vector.element != array.dtype:
            return None

        def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
            pointer = _pointer(context, builder, signature, args, args[2].type)
            written = builder.store(args[2], pointer, align=BYTES if past_caches else _itemsize(array))
            if past_caches:
                written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.void(array, index, vector), build

    return instruction(store)


store = _storing(past_caches=False)
"""`store(array, index, vector)`: write a vector to the memory starting at `array[index]`."""

stream = _storing(past_caches=True)
"""As `store`, past the caches, for data not read soon. `array[index]` must be aligned to 64 bytes.

Other threads may see such stores late: end a kernel that uses them with `fence()`.
"""


@inlined
def add(array, index, vector):  # type: ignore[no-untyped-def]
    """Add a vector to what is there."""
    store(array, index, load(array, index) + vector)


# Parts of a line that pass the caches one by one cost five times as much (AMD EPYC with AVX2).
_AT_ONCE = stores_lines()


@inlined
def put(array, index, vector, streams):  # type: ignore[no-untyped-def]
    """Write data that are not read soon, past the caches if the array and the processor allow it."""
    if streams and _AT_ONCE:
        stream(array, index, vector)
    else:
        store(array, index, vector)


@instruction
def prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Ask for the cache line with `array[index]`; an index outside of the array does nothing."""
    if not _is_contiguous(array):
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        byte, word = ir.IntType(8), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        read, keep, data = (ir.Constant(word, number) for number in (0, 3, 1))
        builder.call(function, [_pointer(context, builder, signature, args, byte), read, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), build


@instruction
def fence(typingctx):  # type: ignore[no-untyped-def]
    """Make everything stored so far visible to other threads."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build


def _pointer(context: Any, builder: Any, signature: Any, args: Any, to: Any) -> Any:
    """Where a value of the type `to` starts."""
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _is_contiguous(array: Any) -> bool:
    return isinstance(array, types.Array) and array.layout == "C"


def _itemsize(array: Any) -> int:
    return int(array.dtype.bitwidth) // 8


# ---- memory in bfloat16: the upper half of a float32, kept in arrays of int16


@instruction
def store_bfloat16(typingctx, array, index, vector):  # type: ignore[no-untyped-def]
    """Write a vector of floating-point numbers, rounded to the nearest bfloat16, starting at `array[index]`."""
    if not _is_contiguous(array) or array.dtype != types.int16:
        return None

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        single, word, half = (ir.VectorType(t, vector.lanes) for t in (ir.FloatType(), ir.IntType(32), ir.IntType(16)))
        value = builder.fptrunc(args[2], single) if vector.element == types.float64 else args[2]
        bits_ = builder.bitcast(value, word)
        upper = builder.lshr(bits_, ir.Constant(word, [16] * vector.lanes))
        odd = builder.and_(upper, ir.Constant(word, [1] * vector.lanes))
        up = builder.add(builder.add(bits_, ir.Constant(word, [0x7FFF] * vector.lanes)), odd)  # ties to even
        rounded = builder.trunc(builder.lshr(up, ir.Constant(word, [16] * vector.lanes)), half)
        builder.store(rounded, _pointer(context, builder, signature, args, half), align=2)
        return context.get_dummy_value()

    return types.void(array, index, vector), build


@instruction
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


# ---- a square of vectors, for kernels that change the order of axes


@instruction
def transpose(typingctx, source, at, step, target, to, stride):  # type: ignore[no-untyped-def]
    """Rows become columns: `target[to + j * stride + i] = source[at + i * step + j]` for all i and j below `lanes`.

    Both arrays are of one type.
    """
    if any(not _is_contiguous(a) or a.dtype != source.dtype for a in (source, target)):
        return None
    n, vector = Vector(source.dtype).lanes, Vector(source.dtype)

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(vector).as_pointer()

        def pointers(k: int) -> list[Any]:
            """Where the n vectors of the array at argument k start."""
            data = context.make_array(signature.args[k])(context, builder, args[k]).data
            begin, distance = (context.cast(builder, args[m], signature.args[m], types.intp) for m in (k + 1, k + 2))
            starts = [builder.add(begin, builder.mul(distance, distance.type(i))) for i in range(n)]
            return [builder.bitcast(builder.gep(data, [start]), kind) for start in starts]

        rows = [builder.load(pointer, align=_itemsize(source)) for pointer in pointers(0)]
        zipped = [ir.Constant(ir.VectorType(ir.IntType(32), n), _zip(half, n)) for half in (0, n // 2)]
        # Zip row i with row i + n/2: after log2(n) rounds each row is a column.
        for _ in range(n.bit_length() - 1):
            pairs = zip(rows[: n // 2], rows[n // 2 :], strict=True)
            rows = [builder.shuffle_vector(a, b, mask) for a, b in pairs for mask in zipped]
        for row, pointer in zip(rows, pointers(3), strict=True):
            builder.store(row, pointer, align=_itemsize(source))
        return context.get_dummy_value()

    return types.void(source, at, step, target, to, stride), build


def _zip(first: int, n: int) -> list[int]:
    """Lanes of two vectors of n, taken in turns, from lane `first` on."""
    return [lane for k in range(first, first + n // 2) for lane in (k, n + k)]
