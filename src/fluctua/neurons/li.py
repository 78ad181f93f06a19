"""The leaky integrator, a readout."""

import torch
from torch import Tensor

from fluctua.neurons.leaky import LeakyNeuron, Tau
from fluctua.timeloop.contract import State


class LI(LeakyNeuron):
    """Leaky integrators that never spike: input current `[T, B, *N]` -> membrane potential `[T, B, *N]`.

    The readout of the paper: the dynamics of `LIF` without threshold, with a `tau_mem` up to the trial's length.

    Args:
        tau_mem: membrane time constant in seconds; a scalar, or a tensor that broadcasts to the population's shape.
        tau_syn: synaptic time constant in seconds, likewise, or None for a delta synapse.
        dt: time step in seconds.
        initial: potential before the first step (the paper's code uses -1e-3).
        learn_tau: whether the time constants are trained.

    Example:
        >>> potential = LI(tau_mem=0.2, tau_syn=None)(torch.ones(3, 1, 1))
        >>> [round(u, 3) for u in potential.flatten().tolist()]
        [0.0, 1.0, 1.99]
    """

    spiking = False

    def __init__(
        self,
        tau_mem: Tau = 0.5,
        tau_syn: Tau | None = 10e-3,
        dt: float = 2e-3,
        *,
        initial: float = 0.0,
        learn_tau: bool = False,
    ) -> None:
        super().__init__(tau_mem, tau_syn, dt, learn_tau=learn_tau)
        self.initial = initial

    def initial_state(self, current: Tensor) -> State:
        """State before the first step for an input current `[T, B, *N]`."""
        rest = super().initial_state(current)
        return rest._replace(potential=torch.full_like(rest.potential, self.initial))

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        return f"{super().extra_repr()}, initial={self.initial:g}"
