"""The PSP kernel of a neuron with an adaptation current that follows its potential."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluctua.theory import PspKernel
from fluctua.theory.psp import checked_factor, decay

Array = NDArray[np.float64]


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


@dataclass(frozen=True, eq=False, kw_only=True)
class StateSpaceKernel(PspKernel):
    """A stable linear system: `s <- transition s + jump x` in every step; `eps` is the first entry of s, from rest.

    Attributes:
        transition: `[*N, S, S]`, with all eigenvalues within the unit circle.
        jump: `[*N, S]`.
    """

    transition: Array
    jump: Array

    def response(self, steps: int) -> Array:
        """See `PspKernel.response`."""
        eps = np.zeros((steps, *self.jump.shape[:-1]))
        s = self.jump
        for k in range(1, steps):
            eps[k] = s[..., 0]
            s = (self.transition @ s[..., None])[..., 0]
        return eps

    def scaled(self, factor: float) -> Self:
        """See `PspKernel.scaled`."""
        return replace(self, jump=checked_factor(factor) * self.jump)

    def _stationary_sums(self) -> tuple[Array, Array, Array]:
        size = self.jump.shape[-1]
        total = np.linalg.inv(np.eye(size) - self.transition) @ self.jump[..., None]
        # The sum of s s^T over time solves P = transition P transition^T + jump jump^T, linear in the entries of P.
        pairs = np.einsum("...ij,...kl->...ikjl", self.transition, self.transition)
        pairs = pairs.reshape(*self.jump.shape[:-1], size**2, size**2)
        start = self.jump[..., :, None] * self.jump[..., None, :]
        p: Array = np.linalg.solve(np.eye(size**2) - pairs, start.reshape(*pairs.shape[:-1], 1)).reshape(start.shape)
        return total[..., 0, 0], p[..., 0, 0], (self.transition @ p)[..., 0, 0]
