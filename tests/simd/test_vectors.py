"""The vectors of `fluctua.simd` against NumPy: every lane is rounded as a scalar is, on any machine."""

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError
from numpy.typing import NDArray

from fluctua.simd import memory, vectors

Array = NDArray[Any]

FLOATS = [np.float32, np.float64]


def aligned(size: int, dtype: Any) -> Array:
    """Zeros that start at a multiple of 64 bytes."""
    memory = np.zeros(size * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size * np.dtype(dtype).itemsize].view(dtype)


def drawn(size: int, dtype: Any, seed: int = 0) -> Array:
    values = aligned(size, dtype)
    values[:] = np.random.default_rng(seed).standard_normal(size)
    return values


@njit
def arithmetic(x, y, z, out):  # type: ignore[no-untyped-def]
    n = 64 // x.itemsize
    for j in range(0, x.size, n):
        a, b, c = memory.load(x, j), memory.load(y, j), memory.load(z, j)
        value = vectors.select((a > b) & ~(c == a), (a - b) * 2 + c / b, -vectors.absolute(c))
        memory.store(out, j, vectors.select((b != b) | (b <= -1.0), vectors.broadcast(3, b), value))


def expected(x: Array, y: Array, z: Array) -> Array:
    value = np.where((x > y) & ~(z == x), (x - y) * x.dtype.type(2) + z / y, -np.abs(z))
    return np.where(np.isnan(y) | (y <= -1), x.dtype.type(3), value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_operators_round_every_lane_as_numpy_does(dtype: Any) -> None:
    x, y, z = (drawn(256, dtype, seed) for seed in range(3))
    x[5], y[9], z[17], x[33] = np.nan, np.nan, np.inf, -np.inf
    out = aligned(256, dtype)
    arithmetic(x, y, z, out)
    np.testing.assert_array_equal(out, expected(x, y, z))


@njit
def copied(x, out, start, past_caches):  # type: ignore[no-untyped-def]
    n = 64 // x.itemsize
    for j in range(0, x.size - n, n):
        if past_caches:
            memory.stream(out, j, memory.load(x, j + start))
        else:
            memory.store(out, j + start, memory.load(x, j + start))
    memory.fence()


@pytest.mark.parametrize("dtype", FLOATS)
def test_loads_and_stores_start_anywhere_and_streams_write_the_same(dtype: Any) -> None:
    n = vectors.lanes(dtype)
    x, out = drawn(8 * n, dtype), aligned(8 * n, dtype)
    copied(x, out, 3, False)
    np.testing.assert_array_equal(out[3 : 3 + 7 * n], x[3 : 3 + 7 * n])
    assert not out[:3].any()
    assert not out[3 + 7 * n :].any()
    copied(x, out, 3, True)
    np.testing.assert_array_equal(out[: 7 * n], x[3 : 3 + 7 * n])


@njit
def past_threshold(x, theta, found):  # type: ignore[no-untyped-def]
    count, n = 0, 64 // x.itemsize
    for j in range(0, x.size, n):
        b = vectors.bits(memory.load(x, j) > theta)
        while b != 0:
            found[count] = j + vectors.trailing_zeros(b)
            count += 1
            b &= b - np.uint64(1)
    return count


@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_and_trailing_zeros_list_the_spikes_in_order(dtype: Any) -> None:
    x = drawn(512, dtype)
    found = np.zeros(512, np.int64)
    count = past_threshold(x, dtype(0.5), found)
    np.testing.assert_array_equal(found[:count], np.flatnonzero(x > 0.5))


@njit
def zeros_at_the_end(number):  # type: ignore[no-untyped-def]
    return vectors.trailing_zeros(number)


def test_zero_ends_with_as_many_zeros_as_it_is_wide() -> None:
    assert zeros_at_the_end(np.uint64(0)) == 64
    assert zeros_at_the_end(np.uint32(0)) == 32
    assert zeros_at_the_end(np.uint64(40)) == 3


@njit
def rounded(x, whole, power):  # type: ignore[no-untyped-def]
    n = vectors.nearest(memory.load(x, 0))
    memory.store(whole, 0, n)
    memory.store(power, 0, vectors.power_of_two(n))


@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_of_two_of_the_nearest_whole_numbers(dtype: Any) -> None:
    least, most = (-126, 127) if dtype is np.float32 else (-1022, 1023)
    x = aligned(vectors.lanes(dtype), dtype)
    x[:8] = [least, -0.6, 0.4, 0.5, 1.5, 2.51, -7.5, most]
    whole, power = np.zeros_like(x), np.zeros_like(x)
    rounded(x, whole, power)
    np.testing.assert_array_equal(whole, np.rint(x))
    np.testing.assert_array_equal(power, np.ldexp(dtype(1), np.rint(x).astype(int)))


@njit
def exponentials(x, out):  # type: ignore[no-untyped-def]
    for j in range(0, x.size, 64 // x.itemsize):
        memory.store(out, j, vectors.exp_of(memory.load(x, j)))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", FLOATS)
def test_exponentials_reach_over_all_numbers_of_the_type(dtype: Any) -> None:
    facts = np.finfo(dtype)
    low, high = float(np.log(facts.smallest_subnormal)) - 2, float(np.log(facts.max)) + 2
    x, out = aligned(4096, dtype), aligned(4096, dtype)
    x[:] = np.linspace(low, high, x.size)
    x[:4] = [-np.inf, np.inf, np.nan, 0.0]
    exponentials(x, out)
    with np.errstate(over="ignore"):
        truth = np.exp(x.astype(np.longdouble)).astype(dtype)
    np.testing.assert_allclose(out, truth, rtol=4 * facts.eps, atol=facts.smallest_subnormal)


@pytest.mark.parametrize(
    "arguments",
    [(drawn(16, np.float32), np.zeros(16)), (drawn(16, np.float32)[::2], np.zeros(16, np.float32))],
    ids=["other-type", "gaps"],
)
def test_arrays_that_do_not_fit_are_refused_when_compiled(arguments: tuple[Array, Array]) -> None:
    @njit
    def copy(x, out):  # type: ignore[no-untyped-def]
        memory.store(out, 0, memory.load(x, 0))

    with pytest.raises(TypingError):
        copy(*arguments)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names an x86 processor")
def test_a_machine_without_wide_registers_computes_the_same() -> None:
    code = (
        "import numpy as np, simd.test_vectors as t; x, y, z = (t.drawn(64, np.float32, k) for k in range(3));"
        "out = t.aligned(64, np.float32); t.arithmetic(x, y, z, out); asm = t.arithmetic.inspect_asm().popitem()[1];"
        "assert 'ymm' not in asm and 'zmm' not in asm; np.testing.assert_array_equal(out, t.expected(x, y, z))"
    )
    environment = os.environ | {
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "",
        "PYTHONPATH": os.pathsep.join(["tests", *sys.path]),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@njit
def turned(source, at, step, target, to, stride):  # type: ignore[no-untyped-def]
    memory.transpose(source, at, step, target, to, stride)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_square_of_vectors_is_turned_around(dtype: Any) -> None:
    n = vectors.lanes(dtype)
    source, target = drawn(3 * n * n, dtype), np.zeros(3 * n * n, dtype)
    turned(source, 5, n + 3, target, 2, n + 1)
    for i in range(n):
        for j in range(n):
            assert target[2 + j * (n + 1) + i] == source[5 + i * (n + 3) + j]
    assert np.count_nonzero(target) == n * n


def test_two_types_cannot_be_turned_into_each_other() -> None:
    with pytest.raises(TypingError):
        turned(np.zeros(256, np.float32), 0, 16, np.zeros(256, np.float64), 0, 16)
