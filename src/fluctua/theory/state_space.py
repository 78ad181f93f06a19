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
        matrix: readout `[*N, S]` and direct `[*N]` in the first row, below transition `[*N, S, S]` and jump `[*N, S]`.

    Example:
        >>> leaky = StateSpaceKernel(dt=1e-3, matrix=np.array([[1.0, 0.0], [0.5, 1.0]]))
        >>> leaky.response(4)
        array([0.  , 1.  , 0.5 , 0.25])
    """

    matrix: Array

    @property
    def parts(self) -> tuple[Array, Array, Array, Array]:
        """Readout, direct, transition and jump."""
        first, below = self.matrix[..., 0, :], self.matrix[..., 1:, :]
        return first[..., :-1], first[..., -1], below[..., :-1], below[..., -1]

    def response(self, steps: int) -> Array:
        readout, direct, transition, s = self.parts
        eps = np.zeros((steps, *direct.shape))
        if steps:
            eps[0] = direct
        for k in range(1, steps):
            eps[k] = (readout * s).sum(-1)
            s = (transition @ s[..., None])[..., 0]
        return eps

    def scaled(self, factor: float) -> Self:
        factors = np.ones(self.matrix.shape[-1])
        factors[-1] = checked_factor(factor)
        return replace(self, matrix=self.matrix * factors)

    def system(self) -> tuple[Array, int]:
        return self.matrix, 0

    def _stationary_sums(self) -> tuple[Array, Array, Array]:
        c, d, transition, jump = self.parts
        size = jump.shape[-1]
        total = np.linalg.solve(np.eye(size) - transition, jump[..., None])[..., 0]
        # The sum of s s^T over time solves P = transition P transition^T + jump jump^T, linear in the entries of P.
        pairs = np.einsum("...ij,...kl->...ikjl", transition, transition)
        pairs = pairs.reshape(*jump.shape[:-1], size**2, size**2)
        start = jump[..., :, None] * jump[..., None, :]
        p: Array = np.linalg.solve(np.eye(size**2) - pairs, start.reshape(*pairs.shape[:-1], 1)).reshape(start.shape)
        squares = np.einsum("...i,...ij,...j->...", c, p, c)
        neighbours = np.einsum("...i,...ij,...j->...", c, transition @ p, c)
        return (c * total).sum(-1) + d, squares + d**2, neighbours + d * (c * jump).sum(-1)
