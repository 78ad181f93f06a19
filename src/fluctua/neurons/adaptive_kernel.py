"""The PSP kernel of a neuron with an adaptation current that follows its potential."""

import numpy as np
from numpy.typing import ArrayLike

from fluctua.theory import PspKernel
from fluctua.theory.psp import decay
from fluctua.theory.state_space import StateSpaceKernel


def check_coupling(tau_mem: ArrayLike, tau_adapt: ArrayLike, coupling: ArrayLike, dt: float) -> None:
    """Refuse an adaptation current whose coupling to the potential makes both grow without bound.

    The eigenvalues of (U, w) have the product `a rho` and the sum `a + rho - (1-a) (1-rho) c`; they lie in the unit
    circle where `-1 < c < (1+a) (1+rho) / ((1-a) (1-rho))`.
    """
    a, rho, c = np.broadcast_arrays(decay(tau_mem, dt), decay(tau_adapt, dt), coupling)
    limit = (1 + a) * (1 + rho) / ((1 - a) * (1 - rho))
    unstable = ~((c > -1) & (c < limit))
    if unstable.any():
        raise ValueError(
            f"the coupling of an adaptation current must lie between -1 and {limit[unstable].min():.6g}, the limit of "
            f"stability at these time constants, got {c[unstable][0]:.6g}"
        )


def adaptive_kernel(
    tau_mem: ArrayLike, tau_syn: ArrayLike | None, tau_adapt: ArrayLike, coupling: ArrayLike, dt: float
) -> PspKernel:
    """Kernel of a membrane with an adaptation current that follows the potential, as in `AdaptiveLIF`.

    Args:
        tau_mem: membrane time constant in seconds, scalar or `[*N]`.
        tau_syn: synaptic time constant, likewise, or None for a delta synapse.
        tau_adapt: time constant of the adaptation, likewise.
        coupling: `c`, likewise.
        dt: time step in seconds.

    Raises:
        ValueError: a coupling that makes the potential unstable.
    """
    check_coupling(tau_mem, tau_adapt, coupling, dt)
    b = np.asarray(0.0) if tau_syn is None else decay(tau_syn, dt, "tau_syn")
    a, b, rho, c = np.broadcast_arrays(decay(tau_mem, dt), b, decay(tau_adapt, dt), np.asarray(coupling, float))
    h, zero = (1 - rho) * c, np.zeros_like(a)
    rows = [[a - (1 - a) * h, -(1 - a) * rho, 1 - a], [h, rho, zero], [zero, zero, b]]
    transition = np.stack([np.stack(row, -1) for row in rows], -2)
    jump = np.broadcast_to([1.0, 0.0, 0.0] if tau_syn is None else [0.0, 0.0, 1.0], (*a.shape, 3))
    return StateSpaceKernel(dt=dt, transition=transition, jump=jump)
