"""Explicit SIMD for numba: vectors as values of a kernel, and instructions that plain loops do not give.

A `@kernel` loads vectors from contiguous arrays, computes with the ordinary operators and stores the result::

    x = load(array, j)                # float32: 16 lanes, float64: 8
    y = select(x > theta, x - theta, broadcast(zero, x))
    store(out, j, y)

`memory.py` has what reads and writes, `vectors.py` the arithmetic, `compiling.py` the decorators of kernels.

LLVM lowers a vector to what the machine has: one AVX-512 register, two of AVX2, four of SSE or NEON, or as many
scalars where there are none. Nothing checks a bound: an index past the end of an array is memory of somebody else.

Measured (performance notes of the project): loops that numba vectorises by itself take 2.6 times as long, for they
use half the register's width and read each line of memory they are about to overwrite; `stream` does not.
"""
