"""Triton kernels of the fused GPU loop: the equations of `contract.py` and their adjoint.

A program integrates a block of columns of `[T, M]` arrays: the state stays in registers while time runs, and each array
is passed over once, its loads a few steps ahead of the arithmetic. Upper-case arguments are constants to the compiler,
which leaves no branch in the loop and reads no array that it does not need.

Six constants `a, b, theta, rho, beta, c` come as `[6, N]`; column m belongs to neuron `m % N`. The state `U`, then `I`
of an exponential synapse, then `w` of a population that adapts, comes as `[S, M]`. No operation is fused with another
(the launch says so), so that spikes equal the reference's.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def forward_loop(  # type: ignore[no-untyped-def]
    x,
    state,
    constants,
    potential,
    output,
    current,
    adaptation,
    end,
    steps,
    columns,
    neurons,
    EXPONENTIAL: tl.constexpr,
    SPIKING: tl.constexpr,
    HARD: tl.constexpr,
    RAISES: tl.constexpr,
    COUPLED: tl.constexpr,
    RECORDS_CURRENT: tl.constexpr,
    RECORDS_ADAPTATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Loop over time: fills the records `[T, M]` from `potential` to `adaptation`, and the state `end`."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < columns
    neuron = constants + at % neurons
    a = tl.load(neuron, live, 0.0)
    u = tl.load(state + at, live, 0.0)
    if EXPONENTIAL:
        b = tl.load(neuron + neurons, live, 0.0)
        i = tl.load(state + columns + at, live, 0.0)
    if SPIKING:
        theta = tl.load(neuron + 2 * neurons, live, 0.0)
    if RAISES or COUPLED:
        rho = tl.load(neuron + 3 * neurons, live, 0.0)
        beta = tl.load(neuron + 4 * neurons, live, 0.0)
        w = tl.load(state + (1 + EXPONENTIAL) * columns + at, live, 0.0)
    if COUPLED:
        c = tl.load(neuron + 5 * neurons, live, 0.0)

    to = at
    for _ in tl.range(0, steps, num_stages=4):
        x_t = tl.load(x + to, live, 0.0)
        tl.store(potential + to, u, live)
        if RECORDS_CURRENT:
            tl.store(current + to, i, live)
        if RECORDS_ADAPTATION:
            tl.store(adaptation + to, w, live)
        if EXPONENTIAL:
            v = a * u + (1 - a) * i
            i = b * i + x_t
        else:
            v = a * u + x_t
        if SPIKING:
            level = theta + w if RAISES else theta
            out = (u - level > 0).to(u.dtype)
            tl.store(output + to, out, live)
            if RAISES:
                w = rho * w + (1 - rho) * (beta * out)
            if COUPLED:
                w = rho * w + (1 - rho) * (c * u + beta * out)
                v = v - (1 - a) * w
            v = v * (1 - out) if HARD else v - level * out
        u = v
        to += columns

    tl.store(end + at, u, live)
    if EXPONENTIAL:
        tl.store(end + columns + at, i, live)
    if RAISES or COUPLED:
        tl.store(end + (1 + EXPONENTIAL) * columns + at, w, live)


@triton.jit  # type: ignore[untyped-decorator]
def backward_loop(  # type: ignore[no-untyped-def]
    g_out,
    g_end,
    constants,
    potential,
    drive,
    adaptation,
    g_x,
    g_state,
    g_constants,
    steps,
    columns,
    neurons,
    last,
    EXPONENTIAL: tl.constexpr,
    SPIKING: tl.constexpr,
    HARD: tl.constexpr,
    DIFFERENTIABLE: tl.constexpr,
    RAISES: tl.constexpr,
    COUPLED: tl.constexpr,
    READS_ADAPTATION: tl.constexpr,
    LEARNS: tl.constexpr,
    WANTS_INPUT: tl.constexpr,
    SURROGATE: tl.constexpr,
    SLOPE: tl.constexpr,
    HEIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adjoint loop, from the last step, which begins at the element `last`, to the first.

    `g_out` `[T, M]` and `g_end` `[S, M]` are the gradients with respect to output and final state; `drive` is what
    enters the potential, `I[t]` or, of a delta synapse, `x[t]`. Fills `g_x`, `g_state` and, of each column of its
    own, `g_constants` `[6, M]`.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < columns
    neuron = constants + at % neurons
    a = tl.load(neuron, live, 0.0)
    gu = tl.load(g_end + at, live, 0.0)
    if EXPONENTIAL:
        b = tl.load(neuron + neurons, live, 0.0)
        gi = tl.load(g_end + columns + at, live, 0.0)
    if SPIKING:
        theta = tl.load(neuron + 2 * neurons, live, 0.0)
    if RAISES or COUPLED:
        rho = tl.load(neuron + 3 * neurons, live, 0.0)
        beta = tl.load(neuron + 4 * neurons, live, 0.0)
        gw = tl.load(g_end + (1 + EXPONENTIAL) * columns + at, live, 0.0)
    if COUPLED:
        c = tl.load(neuron + 5 * neurons, live, 0.0)
    ga = tl.full([BLOCK], 0, a.dtype)
    gb, gtheta, grho, gbeta, gc = ga, ga, ga, ga, ga

    to = at + last
    for _ in tl.range(0, steps, num_stages=4):
        g = tl.load(g_out + to, live, 0.0)
        if SPIKING or LEARNS:
            u = tl.load(potential + to, live, 0.0)
        if (DIFFERENTIABLE and HARD) or (LEARNS and EXPONENTIAL):
            d = tl.load(drive + to, live, 0.0)
        if READS_ADAPTATION:
            w = tl.load(adaptation + to, live, 0.0)

        gv = gu  # with respect to V, what is there before the reset
        if SPIKING:
            level = theta + w if RAISES else theta
            out = (u - level > 0).to(u.dtype)
            if COUPLED and READS_ADAPTATION:
                w_next = rho * w + (1 - rho) * (c * u + beta * out)
            if HARD:
                if DIFFERENTIABLE:
                    v = a * u + ((1 - a) * d if EXPONENTIAL else d)
                    if COUPLED:
                        v = v - (1 - a) * w_next
                    g -= gu * v
                gv = gu * (1 - out)
            elif DIFFERENTIABLE:
                g -= gu * level
            if COUPLED:
                gw -= (1 - a) * gv
            if RAISES or COUPLED:
                g += (1 - rho) * beta * gw
            g_level = -g * HEIGHT * surrogate_derivative(SLOPE * tl.abs(u - level), SURROGATE)
            g = -g_level
            if not HARD and (LEARNS or RAISES):
                g_level -= gu * out
            if LEARNS:
                gtheta += g_level
        if LEARNS:
            if EXPONENTIAL:
                ga += gv * (u - d)
                gb += gi * d
            else:
                ga += gv * u
            if COUPLED:
                ga += gv * w_next
                grho += gw * (w - (c * u + beta * out))
                gc += gw * (1 - rho) * u
            if RAISES:
                grho += gw * (w - beta * out)
            if RAISES or COUPLED:
                gbeta += gw * (1 - rho) * out
        if WANTS_INPUT:
            tl.store(g_x + to, gi if EXPONENTIAL else gv, live)

        gu = a * gv + g
        if COUPLED:
            gu += (1 - rho) * c * gw
        if RAISES or COUPLED:
            gw = rho * gw
        if RAISES:
            gw += g_level
        if EXPONENTIAL:
            gi = (1 - a) * gv + b * gi
        to -= columns

    tl.store(g_state + at, gu, live)
    if EXPONENTIAL:
        tl.store(g_state + columns + at, gi, live)
    if RAISES or COUPLED:
        tl.store(g_state + (1 + EXPONENTIAL) * columns + at, gw, live)
    if LEARNS:
        tl.store(g_constants + at, ga, live)
        tl.store(g_constants + columns + at, gb, live)
        tl.store(g_constants + 2 * columns + at, gtheta, live)
        tl.store(g_constants + 3 * columns + at, grho, live)
        tl.store(g_constants + 4 * columns + at, gbeta, live)
        tl.store(g_constants + 5 * columns + at, gc, live)


@triton.jit  # type: ignore[untyped-decorator]
def surrogate_derivative(z, SHAPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Surrogate of slope and height 1 at the distance `z >= 0` from threshold."""
    if SHAPE == "rational":
        d = 1 / ((1 + z) * (1 + z))
    elif SHAPE == "lorentzian":
        d = 1 / (1 + z * z)
    else:
        e = tl.exp(-z)
        d = e / ((1 + e) * (1 + e))
    return d


INTERPRETED = not isinstance(forward_loop, triton.JITFunction)
