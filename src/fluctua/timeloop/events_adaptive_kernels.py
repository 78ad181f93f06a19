"""What adaptation adds to the kernels of `events_kernels.py`: a step of neurons that adapt, and their way back.

The equations are those of `contract.py`; arrays are laid out as there, and rounded as there. Adaptation is a type of
its own to the compiler: the loops of neurons that do not adapt know nothing of it.
"""

from typing import Any, NamedTuple

from numpy.typing import NDArray

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import add, load, store
from fluctua.simd.vectors import bits, broadcast, select
from fluctua.timeloop.cpu_kernels import surrogate


class Adapting(NamedTuple):
    """Constants of `contract.Adaptation`, `[width]`; a coupling without elements where w raises the threshold."""

    decay: NDArray[Any]
    strength: NDArray[Any]
    coupling: NDArray[Any]


@helper
def adaptive_step(u, i, w, x, a, gain, b, theta, adaptation, j, exponential, hard):  # type: ignore[no-untyped-def]
    """One step of the vector of neurons at `j`: potential, current and adaptation after it, and who fired."""
    raises = adaptation.coupling.size == 0
    zero, one = broadcast(0.0, u), broadcast(1.0, u)
    v = a * u
    if exponential:
        v = v + gain * i
        i = b * i + x
    else:
        v = v + x
    if raises:
        theta = theta + w
    mask = u > theta
    w = _next(u, w, mask, adaptation, j)
    if not raises:
        v = v - gain * w
    v = v * select(mask, zero, one) if hard else v - select(mask, theta, zero)
    return v, i, w, bits(mask)


@helper
def _pull(u, fired, adaptation, j):  # type: ignore[no-untyped-def]
    """What the adaptation decays to."""
    by_spikes = select(fired, load(adaptation.strength, j), broadcast(0.0, u))
    return load(adaptation.coupling, j) * u + by_spikes if adaptation.coupling.size > 0 else by_spikes


@helper
def _next(u, w, fired, adaptation, j):  # type: ignore[no-untyped-def]
    """The adaptation after a step."""
    rho = load(adaptation.decay, j)
    return rho * w + (1.0 - rho) * _pull(u, fired, adaptation, j)


@kernel
def adjoint(  # type: ignore[no-untyped-def]
    g,
    potential,
    drive,
    levels,
    gu,
    gi,
    gw,
    ga,
    gb,
    grho,
    gbeta,
    gc,
    decay_mem,
    gain,
    decay_syn,
    threshold,
    adaptation,
    exponential,
    hard,
    differentiable,
    shape,
    slope,
    height,
    steps,
    first,
    stop,
):
    """As `events_kernels.adjoint`, of neurons that adapt.

    `levels` is the adaptation before each step, as `potential`; `gw` the gradient wrt the state that it is; `grho`,
    `gbeta` and `gc` sum up those wrt its constants unless they have no element.
    """
    lane = 64 // g.itemsize
    width = decay_mem.size
    raises = adaptation.coupling.size == 0
    for s in range(gu.size // width):
        for t in range(stop - 1, first - 1, -1):
            row = (s * steps + t) * width
            for j in range(0, width, lane):
                k = s * width + j
                a, c = load(decay_mem, j), load(gain, j)
                g_j, gu_j, gw_j = load(g, row + j), load(gu, k), load(gw, k)
                u, w, theta = load(potential, row + j), load(levels, row + j), load(threshold, j)
                d = load(drive, row + j) if drive.size > 0 else u
                zero, one = broadcast(0.0, u), broadcast(1.0, u)
                if raises:
                    theta = theta + w
                distance = u - theta
                fired = distance > zero
                rho, after = load(adaptation.decay, j), _next(u, w, fired, adaptation, j)
                gv = gu_j * select(fired, zero, one) if hard else gu_j
                if not raises:
                    gw_j = gw_j - c * gv
                passed = (1.0 - rho) * gw_j  # wrt what the adaptation decays to
                if differentiable:
                    lost = theta
                    if hard:
                        lost = a * u + (c * d if exponential else d)
                        if not raises:
                            lost = lost - c * after
                    g_j = g_j - gu_j * lost
                g_j = (g_j + load(adaptation.strength, j) * passed) * surrogate(slope, height, distance, shape)
                if grho.size > 0:
                    add(grho, k, gw_j * (w - _pull(u, fired, adaptation, j)))
                    add(gbeta, k, select(fired, passed, zero))
                gw_j = rho * gw_j
                if raises:
                    gw_j = gw_j - g_j if hard else gw_j - g_j - select(fired, gu_j, zero)
                else:
                    add(gc, k, passed * u)
                    g_j = g_j + load(adaptation.coupling, j) * passed
                store(gw, k, gw_j)
                store(gu, k, a * gv + g_j)
                if ga.size > 0:
                    drawn = u if raises else u + after
                    add(ga, k, gv * (drawn - d if exponential else drawn))
                if exponential:
                    gi_j = load(gi, k)
                    if ga.size > 0:
                        add(gb, k, gi_j * d)
                    store(g, row + j, gi_j)
                    store(gi, k, c * gv + load(decay_syn, j) * gi_j)
                else:
                    store(g, row + j, gv)
