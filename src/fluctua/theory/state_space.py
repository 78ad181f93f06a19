"""The PSP kernel of any linear neuron, as a state space."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from fluctua.theory.psp import Array, PspKernel, checked_factor


@dataclass(frozen=True, eq=False, kw_only=True)
class StateSpaceKernel(PspKernel):
    """A linear system: `u = readout s + direct x`, then `s <- transition s + jump x`, in every step from rest.

    `eps` is the response of u. The transition is stable unless moments are asked for over a trial.

    Attributes:
        transition: `[*N, S, S]`.
        jump: `[*N, S]`.
        readout: `[*N, S]`, or None for the first entry of s.
        direct: `[*N]`, or None for zero.

    Example:
        >>> leaky = StateSpaceKernel(dt=1e-3, transition=np.array([[0.5]]), jump=np.array([1.0]))
        >>> leaky.response(4)
        array([0.  , 1.  , 0.5 , 0.25])
    """

    transition: Array
    jump: Array
    readout: Array | None = None
    direct: Array | None = None

    @classmethod
    def of(cls, system: Array, dt: float) -> "StateSpaceKernel":
        """From a matrix as `system` gives it."""
        return cls(
            dt=dt,
            transition=system[..., 1:, :-1],
            jump=system[..., 1:, -1],
            readout=system[..., 0, :-1],
            direct=system[..., 0, -1],
        )

    def response(self, steps: int) -> Array:
        eps = np.zeros((steps, *self.jump.shape[:-1]))
        if steps and self.direct is not None:
            eps[0] = self.direct
        s = self.jump
        for k in range(1, steps):
            eps[k] = s[..., 0] if self.readout is None else (self.readout * s).sum(-1)
            s = (self.transition @ s[..., None])[..., 0]
        return eps

    def scaled(self, factor: float) -> Self:
        factor = checked_factor(factor)
        return replace(self, jump=factor * self.jump, direct=None if self.direct is None else factor * self.direct)

    def system(self) -> tuple[Array, int]:
        size = self.jump.shape[-1]
        c = np.broadcast_to(np.eye(size)[0], self.jump.shape) if self.readout is None else self.readout
        d = np.zeros(self.jump.shape[:-1]) if self.direct is None else self.direct
        after = np.concatenate([self.transition, self.jump[..., None]], -1)
        return np.concatenate([np.concatenate([c, d[..., None]], -1)[..., None, :], after], -2), 0

    def _stationary_sums(self) -> tuple[Array, Array, Array]:
        size = self.jump.shape[-1]
        c = np.eye(size)[0] if self.readout is None else self.readout
        d = np.asarray(0.0 if self.direct is None else self.direct)
        total = np.linalg.solve(np.eye(size) - self.transition, self.jump[..., None])[..., 0]
        # The sum of s s^T over time solves P = transition P transition^T + jump jump^T, linear in the entries of P.
        pairs = np.einsum("...ij,...kl->...ikjl", self.transition, self.transition)
        pairs = pairs.reshape(*self.jump.shape[:-1], size**2, size**2)
        start = self.jump[..., :, None] * self.jump[..., None, :]
        p: Array = np.linalg.solve(np.eye(size**2) - pairs, start.reshape(*pairs.shape[:-1], 1)).reshape(start.shape)
        squares = np.einsum("...i,...ij,...j->...", c, p, c)
        neighbours = np.einsum("...i,...ij,...j->...", c, self.transition @ p, c)
        first = (c * self.jump).sum(-1)
        return (c * total).sum(-1) + d, squares + d**2, neighbours + d * first
