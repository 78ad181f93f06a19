"""Explicit SIMD for numba: vectors as values of a kernel, and instructions that plain loops do not use.

A `@kernel` loads vectors from contiguous arrays, computes with the ordinary operators and stores the result::

    x = load(array, j)                # float32: 16 lanes, float64: 8
    y = select(x > theta, x - theta, broadcast(zero, x))
    store(out, j, y)

`memory.py` reads and writes, `vectors.py` computes, `compiling.py` has the decorators of kernels.

LLVM lowers a vector to what the machine has: one AVX-512 register, two of AVX2, four of SSE or NEON, or as many
scalars if there are none. Nothing checks bounds: an index past the end of an array is somebody else's memory.

Measured: loops that numba vectorises by itself take 2.6 times as long, because they use half the register's width and
read each line of memory that they are about to overwrite; `stream` does not.
"""
