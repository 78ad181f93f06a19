"""The leaky integrate-and-fire neuron."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fluctua.neurons.leaky import LeakyNeuron, Tau, shown
from fluctua.timeloop.contract import LoopParameters, Reset
from fluctua.timeloop.surrogates import SuperSpike, Surrogate


class Firing(nn.Module):
    """What neurons that spike have besides their time constants: threshold, reset and surrogate (see `LIF`)."""

    spiking = True
    threshold: Tensor
    reset: Reset
    differentiable_reset: bool
    surrogate: Surrogate

    def _set_firing(
        self, threshold: float | Tensor, reset: Reset, differentiable_reset: bool, surrogate: Surrogate | None
    ) -> None:
        theta = torch.as_tensor(threshold, dtype=torch.get_default_dtype()).detach().clone()
        if not bool(((theta > 0) & theta.isfinite()).all()):
            raise ValueError(f"a threshold must be positive and finite, got {threshold}")
        if reset not in ("zero", "subtract"):
            raise ValueError(f"unknown reset {reset!r}: choose 'zero' or 'subtract'")
        self.register_buffer("threshold", theta)
        self.reset = reset
        self.differentiable_reset = differentiable_reset
        self.surrogate = surrogate if surrogate is not None else SuperSpike()

    def _firing(self, parameters: LoopParameters) -> LoopParameters:
        return replace(
            parameters,
            threshold=self.threshold,
            reset=self.reset,
            differentiable_reset=self.differentiable_reset,
            surrogate=self.surrogate,
        )

    def _firing_repr(self) -> str:
        return f"threshold={shown(self.threshold)}, reset={self.reset!r}, {self.surrogate}"


class LIF(LeakyNeuron, Firing):
    """Leaky integrate-and-fire neurons with the dynamics of the paper: input current `[T, B, *N]` -> spikes.

    With `a = exp(-dt/tau_mem)`, `b = exp(-dt/tau_syn)` (Rossbroich, Gygax & Zenke 2022)::

        out[t] = H(U[t] - theta)
        U[t+1] = (a U[t] + (1-a) I[t]) (1 - out[t])
        I[t+1] = b I[t] + x[t]

    and for a delta synapse `U[t+1] = (a U[t] + x[t]) (1 - out[t])`. In backward a surrogate stands in for the
    derivative of H.

    Args:
        tau_mem: membrane time constant in seconds; a scalar, or a tensor that broadcasts to the population's shape.
        tau_syn: synaptic time constant in seconds, likewise, or None for a delta synapse.
        dt: time step in seconds.
        threshold: `theta`; a scalar, or a tensor that broadcasts to the population's shape.
        reset: "zero" (the paper's: U and the step's drive are lost) or "subtract" (theta is taken off the new U).
        differentiable_reset: whether the gradient also flows through the reset (the paper: no).
        surrogate: `SuperSpike` (default), `SigmoidDerivative` or `ArcTan`.
        learn_tau: whether the time constants are trained.

    Raises:
        ValueError: constants that are not positive and finite, or an unknown reset.

    Example:
        >>> current = torch.full((50, 1, 1), 0.5)  # [T, B, N]
        >>> LIF(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)(current).sum().item()
        7.0
    """

    def __init__(
        self,
        tau_mem: Tau = 20e-3,
        tau_syn: Tau | None = 10e-3,
        dt: float = 2e-3,
        *,
        threshold: float | Tensor = 1.0,
        reset: Reset = "zero",
        differentiable_reset: bool = False,
        surrogate: Surrogate | None = None,
        learn_tau: bool = False,
    ) -> None:
        super().__init__(tau_mem, tau_syn, dt, learn_tau=learn_tau)
        self._set_firing(threshold, reset, differentiable_reset, surrogate)

    def loop_parameters(self) -> LoopParameters:
        """The constants of the time loop, from the live parameters."""
        return self._firing(super().loop_parameters())

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        return f"{super().extra_repr()}, {self._firing_repr()}"
