"""Leaky integrate-and-fire neurons with an excitatory and an inhibitory synaptic current."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fluctua.neurons.leaky import Firing, Neuron, Tau, at_rest, numbers, register_tau, shown, tau_property
from fluctua.neurons.steps import ExcInhStep, Reset
from fluctua.neurons.surrogates import Surrogate
from fluctua.theory.psp import PspKernel, checked_dt
from fluctua.timeloop.contract import Dynamics, LoopResult, Tensors, step_for


class ExcInhState(NamedTuple):
    """State between two steps: potential `U` and the synaptic currents `I_e` and `I_i`, each `[B, *N]`."""

    potential: Tensor
    excitation: Tensor
    inhibition: Tensor


ExcInhStepper = Callable[[Tensor, Tensor | None, ExcInhState], tuple[Tensor, ExcInhState]]


class ExcInhLIF(Neuron, Firing):
    """Leaky integrate-and-fire neurons with two kinds of synapses: two input currents `[T, B, *N]` -> spikes.

    The neurons of the paper's networks with Dale's law. With `a = exp(-dt/tau_mem)`, `b_e = exp(-dt/tau_exc)` and
    `b_i = exp(-dt/tau_inh)`::

        out[t]   = H(U[t] - theta)
        U[t+1]   = (a U[t] + (1-a) (I_e[t] - I_i[t])) (1 - out[t])
        I_e[t+1] = b_e I_e[t] + exc[t]
        I_i[t+1] = b_i I_i[t] + inh[t]

    The neuron applies the signs: both input currents come through non-negative weights.

    Args:
        tau_mem: membrane time constant in seconds; a scalar, or a tensor that broadcasts to the population's shape.
        tau_exc: time constant of the excitatory current in seconds, likewise.
        tau_inh: time constant of the inhibitory current in seconds, likewise.
        dt: time step in seconds.
        threshold: see `LIF`, as all that follow.
        reset: "zero" or "subtract".
        differentiable_reset: whether the gradient also flows through the reset.
        surrogate: `SuperSpike` (default), `SigmoidDerivative` or `ArcTan`.
        learn_tau: whether the time constants are trained.

    Raises:
        ValueError: constants that are not positive and finite, or an unknown reset.

    Example:
        >>> neurons, exc = ExcInhLIF(), torch.full((100, 1, 1), 0.5)
        >>> [int(neurons(exc, inh).sum()) for inh in (None, 0.2 * exc)]
        [15, 9]
    """

    log_tau_mem: Tensor
    log_tau_exc: Tensor
    log_tau_inh: Tensor

    def __init__(
        self,
        tau_mem: Tau = 20e-3,
        tau_exc: Tau = 10e-3,
        tau_inh: Tau = 20e-3,
        dt: float = 2e-3,
        *,
        threshold: float | Tensor = 1.0,
        reset: Reset = "zero",
        differentiable_reset: bool = False,
        surrogate: Surrogate | None = None,
        learn_tau: bool = False,
    ) -> None:
        super().__init__()
        self.dt = checked_dt(dt)
        for name, tau in (("tau_mem", tau_mem), ("tau_exc", tau_exc), ("tau_inh", tau_inh)):
            register_tau(self, name, tau, learn_tau)
        self._set_firing(threshold, reset, differentiable_reset, surrogate)

    tau_mem = tau_property("tau_mem", "Membrane time constant in seconds.")
    tau_exc = tau_property("tau_exc", "Time constant of the excitatory current in seconds.")
    tau_inh = tau_property("tau_inh", "Time constant of the inhibitory current in seconds.")

    def kernels(self) -> tuple[PspKernel, PspKernel]:
        """The PSP kernels of excitation and inhibition, in closed form."""
        tau_mem, tau_exc, tau_inh = map(numbers, (self.tau_mem, self.tau_exc, self.tau_inh))
        inhibition = PspKernel.exponential(tau_mem, tau_inh, self.dt).scaled(-1)
        return PspKernel.exponential(tau_mem, tau_exc, self.dt), inhibition

    def dynamics(self) -> Dynamics:
        """The step and its constants, from the live parameters."""
        decays = (torch.exp(-self.dt / tau) for tau in (self.tau_mem, self.tau_exc, self.tau_inh))
        step = step_for(ExcInhStep, *self._options)
        return Dynamics(step, (*decays, self.threshold), states=3, inputs=2)

    def initial_state(self, exc: Tensor) -> ExcInhState:
        """State before the first step for a current `[T, B, *N]`: at rest. For one step `x`, pass `x[None]`."""
        rest = at_rest(exc)
        return ExcInhState(rest, rest, rest)

    def _after(self, parts: Tensors, before: ExcInhState) -> ExcInhState:
        return ExcInhState(*parts)

    def simulate(self, exc: Tensor, inh: Tensor | None = None, state: ExcInhState | None = None) -> LoopResult:
        """Run the time loops and return everything: output, potential and final state.

        Raises:
            ValueError: currents of different shapes; see also `timeloop.engines.integrate`.
        """
        return self._simulate((exc, torch.zeros_like(exc) if inh is None else inh), state)

    def forward(self, exc: Tensor, inh: Tensor | None = None) -> Tensor:
        """Excitatory and inhibitory input current `[T, B, *N]` (default: none) -> spikes of the same shape."""
        return self.simulate(exc, inh).output

    def stepper(self) -> ExcInhStepper:
        """The neuron one step at a time, with the constants evaluated once: see `timeloop.engines.step_by_step`.

        A function `(exc [B, *N], inh [B, *N] or None, state) -> (spikes [B, *N], next state)`; start it from
        `initial_state`.
        """
        advance = self._stepper()
        return lambda exc, inh, state: advance((exc, torch.zeros_like(exc) if inh is None else inh), state)

    def step(self, exc: Tensor, inh: Tensor | None, state: ExcInhState) -> tuple[Tensor, ExcInhState]:
        """One step: currents `[B, *N]`, state -> spikes `[B, *N]`, next state. In a loop `stepper` is faster."""
        return self.stepper()(exc, inh, state)

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        taus = [f"{name}={shown(getattr(self, name))}" for name in ("tau_mem", "tau_exc", "tau_inh")]
        return ", ".join([*taus, f"dt={self.dt:g}", self._firing_repr()])
