"""Triton kernels of a population that hears itself: its spikes pass a dense weight and reach it one step later.

A program takes a block of samples through time. For each step it goes over the neurons in tiles: it multiplies the
samples' spikes of the step before, or backward the gradients of the step after, by a tile of the weight and integrates
the tile. Neurons hear each other, so the state and what they say pass through memory, with a barrier between two
steps. Because nothing stays in registers, a population may be of any size.

A launch may also do a single step with one program for each tile, so that all of the GPU works on a large weight; then
the end of the launch is the barrier. In the step `edge`, the first of the direction, nothing is heard.

Three constants `a, b, theta` come as `[3, N]`; upper-case arguments are constants to the compiler.
"""

import triton
import triton.language as tl

from fluctua.timeloop.gpu_kernels import surrogate_derivative


@triton.jit(do_not_specialize=["edge", "first"])  # type: ignore[untyped-decorator]
def forward_steps(  # type: ignore[no-untyped-def]
    x,
    constants,
    weight,
    bias,
    potential,
    output,
    drive,
    edge,
    first,
    steps,
    samples,
    neurons,
    columns,
    EXPONENTIAL: tl.constexpr,
    HARD: tl.constexpr,
    RECORDS_DRIVE: tl.constexpr,
    BIASED: tl.constexpr,
    SAMPLES: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """Steps from `first` on: fills `potential` `[T + 1, B, N]`, of which the first row is given, and `output`.

    `drive` is what enters the potential: `I`, like the potential, or of a delta synapse the input `[T, B, N]` with
    what was heard. Where it is not to be recorded there is a single row of `I`, and none of the input.
    """
    row = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    now = first.to(tl.int64) * columns  # where the step begins
    for t in range(first, first + steps):
        for tile in range(tl.program_id(1) * NEURONS, neurons, tl.num_programs(1) * NEURONS):
            n = tile + tl.arange(0, NEURONS)
            there = n < neurons
            live = (row < samples)[:, None] & there[None, :]
            cell = row.to(tl.int64)[:, None] * neurons + n[None, :]
            at = now + cell
            a = tl.load(constants + n, there, 0.0)[None, :]
            theta = tl.load(constants + 2 * neurons + n, there, 0.0)[None, :]
            u = tl.load(potential + at, live, 0.0)
            x_t = tl.load(x + at, live, 0.0)
            if t != edge:
                heard = _product(output + now - columns, weight, row, n, samples, neurons, 1, neurons)
                if BIASED:
                    heard += tl.load(bias + n, there, 0.0)[None, :]
                x_t += heard

            if EXPONENTIAL:
                b = tl.load(constants + neurons + n, there, 0.0)[None, :]
                i = tl.load(drive + (at if RECORDS_DRIVE else cell), live, 0.0)
                v = a * u + (1 - a) * i
                tl.store(drive + (at + columns if RECORDS_DRIVE else cell), b * i + x_t, live)
            else:
                v = a * u + x_t
                if RECORDS_DRIVE:
                    tl.store(drive + at, x_t, live)
            out = (u - theta > 0).to(u.dtype)
            tl.store(output + at, out, live)
            tl.store(potential + at + columns, v * (1 - out) if HARD else v - theta * out, live)
        now += columns
        tl.debug_barrier()


@triton.jit(do_not_specialize=["edge", "first"])  # type: ignore[untyped-decorator]
def backward_steps(  # type: ignore[no-untyped-def]
    g_out,
    constants,
    weight,
    potential,
    drive,
    g_x,
    g_state,
    g_constants,
    edge,
    first,
    steps,
    samples,
    neurons,
    columns,
    EXPONENTIAL: tl.constexpr,
    HARD: tl.constexpr,
    DIFFERENTIABLE: tl.constexpr,
    LEARNS: tl.constexpr,
    SURROGATE: tl.constexpr,
    SLOPE: tl.constexpr,
    HEIGHT: tl.constexpr,
    SAMPLES: tl.constexpr,
    NEURONS: tl.constexpr,
):
    """Adjoint steps from `first` down.

    `g_x` `[T, B, N]` is filled; it is also the gradient with respect to what was heard. `g_state` `[S, B, N]`, that
    with respect to U, then I, and `g_constants` `[3, B, N]` are brought from the state after a step to that before it.
    """
    row = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    now = first.to(tl.int64) * columns
    for back in range(0, steps):
        for tile in range(tl.program_id(1) * NEURONS, neurons, tl.num_programs(1) * NEURONS):
            n = tile + tl.arange(0, NEURONS)
            there = n < neurons
            live = (row < samples)[:, None] & there[None, :]
            cell = row.to(tl.int64)[:, None] * neurons + n[None, :]
            at = now + cell
            a = tl.load(constants + n, there, 0.0)[None, :]
            theta = tl.load(constants + 2 * neurons + n, there, 0.0)[None, :]
            u = tl.load(potential + at, live, 0.0)
            g = tl.load(g_out + at, live, 0.0)
            if first - back != edge:
                g += _product(g_x + now + columns, weight, row, n, samples, neurons, neurons, 1)
            gu = tl.load(g_state + cell, live, 0.0)
            if EXPONENTIAL:
                b = tl.load(constants + neurons + n, there, 0.0)[None, :]
                gi = tl.load(g_state + columns + cell, live, 0.0)
            if (DIFFERENTIABLE and HARD) or (LEARNS and EXPONENTIAL):
                d = tl.load(drive + at, live, 0.0)

            gv = gu  # with respect to V, what is there before the reset
            out = (u - theta > 0).to(u.dtype)
            if HARD:
                if DIFFERENTIABLE:
                    g -= gu * (a * u + ((1 - a) * d if EXPONENTIAL else d))
                gv = gu * (1 - out)
            elif DIFFERENTIABLE:
                g -= gu * theta
            g = g * HEIGHT * surrogate_derivative(SLOPE * tl.abs(u - theta), SURROGATE)
            if LEARNS:
                of = g_constants + cell
                _add(of, gv * (u - d) if EXPONENTIAL else gv * u, live)
                if EXPONENTIAL:
                    _add(of + columns, gi * d, live)
                _add(of + 2 * columns, -g if HARD else -g - gu * out, live)

            tl.store(g_x + at, gi if EXPONENTIAL else gv, live)
            tl.store(g_state + cell, a * gv + g, live)
            if EXPONENTIAL:
                tl.store(g_state + columns + cell, (1 - a) * gv + b * gi, live)
        now -= columns
        tl.debug_barrier()


@triton.jit  # type: ignore[untyped-decorator]
def _product(given, weight, row, n, samples, neurons, along_k, along_n):  # type: ignore[no-untyped-def]
    """Rows of `given` `[B, N]` times columns n of a matrix, of which the strides say how it lies in memory."""
    total = tl.full([row.shape[0], n.shape[0]], 0, given.dtype.element_ty)
    for first in range(0, neurons, n.shape[0]):
        k = first + tl.arange(0, n.shape[0])
        there = k < neurons
        rows = row.to(tl.int64)[:, None] * neurons + k[None, :]
        left = tl.load(given + rows, (row < samples)[:, None] & there[None, :], 0.0)
        right = tl.load(
            weight + k[:, None] * along_k + n[None, :] * along_n, there[:, None] & (n < neurons)[None, :], 0.0
        )
        total = tl.dot(left, right, total, input_precision="ieee", out_dtype=total.dtype)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _add(to, increment, live):  # type: ignore[no-untyped-def]
    tl.store(to, tl.load(to, live, 0.0) + increment, live)
