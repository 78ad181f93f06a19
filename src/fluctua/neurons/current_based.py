"""Leaky neurons given by their constants per step, which act in the step of the input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.neurons.leaky import at_rest, shown
from fluctua.theory.psp import checked_dt
from fluctua.timeloop.contract import LoopResult, State
from fluctua.timeloop.engines import Stepper
from fluctua.timeloop.steps import Reset
from fluctua.timeloop.surrogates import SuperSpike, Surrogate, spike


class CurrentBased(nn.Module):
    """A leaky membrane, with a synaptic current or without, as NIR graphs and most frameworks have it.

    In each step ::

        I <- decay_syn I + x, or x without synaptic current
        U <- leak + decay_mem (U - leak) + gain I
        out = H(U - threshold)
        U <- v_reset where out = 1 (reset "zero"), or U - threshold out (reset "subtract")

    where the `LIF` of the paper needs two steps from an input to its effect. Constants are numbers, or tensors that
    broadcast to the population's shape; they are not trained.

    Args:
        decay_mem: factor per step in [0, 1]; at 1 it is a perfect integrator, without `leak`.
        gain: of the membrane for the current.
        dt: time step in seconds.
        decay_syn: factor per step in [0, 1), or None for no synaptic current.
        leak: resting potential.
        threshold: None for a readout, which never spikes and returns its potential.
        v_reset: potential after a spike, for the reset "zero".
        reset: "zero" or "subtract".
        surrogate: `SuperSpike` (default), `SigmoidDerivative` or `ArcTan`.

    Raises:
        ValueError: a decay out of its range, or a time step that is not positive.
    """

    threshold: Tensor | None
    decay_syn: Tensor | None
    decay_mem: Tensor
    gain: Tensor
    leak: Tensor
    v_reset: Tensor

    def __init__(
        self,
        decay_mem: Any,
        gain: Any,
        dt: float,
        *,
        decay_syn: Any = None,
        leak: Any = 0.0,
        threshold: Any = None,
        v_reset: Any = 0.0,
        reset: Reset = "zero",
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        self.dt, self.reset = checked_dt(dt), reset
        self.surrogate = surrogate if surrogate is not None else SuperSpike()
        constants = {"decay_mem": decay_mem, "gain": gain, "leak": leak, "v_reset": v_reset}
        for name, value in (constants | {"decay_syn": decay_syn, "threshold": threshold}).items():
            number = None if value is None else torch.as_tensor(value, dtype=torch.get_default_dtype()).clone()
            self.register_buffer(name, number)
        for name, decay in (("decay_mem", self.decay_mem), ("decay_syn", self.decay_syn)):
            if decay is not None and not bool(((decay >= 0) & (decay <= 1)).all()):
                raise ValueError(f"{name} must lie in [0, 1], got {shown(decay)}: is the time step too long?")

    @property
    def spiking(self) -> bool:
        """Whether it has a threshold."""
        return self.threshold is not None

    def initial_state(self, current: Tensor) -> State:
        """State before the first step for an input current `[T, B, *N]`: at rest. Of one step `x` give `x[None]`."""
        rest = at_rest(current)
        return State(rest + self.leak.to(rest), rest)

    def stepper(self) -> Stepper:
        """One step: `(current [B, *N], state) -> (output [B, *N], next state)`."""
        charge = self._charge()

        def step(x: Tensor, state: State) -> tuple[Tensor, State]:
            u, i = charge(x, state)
            out, u = self._fire(u)
            return out, State(u, i)

        return step

    def simulate(self, current: Tensor, state: State | None = None) -> LoopResult:
        """Run over the current `[T, B, *N]`: output, potential before the reset, and final state."""
        state = self.initial_state(current) if state is None else state
        charge, outputs, potentials = self._charge(), list[Tensor](), list[Tensor]()
        for x in current.unbind(0):
            u, i = charge(x, state)
            out, after = self._fire(u)
            state = State(after, i)
            outputs.append(out)
            potentials.append(u)
        return LoopResult(torch.stack(outputs), torch.stack(potentials), state)

    def forward(self, current: Tensor) -> Tensor:
        """Input current `[T, B, *N]` -> spikes, or potential of a readout, of the same shape."""
        return self.simulate(current).output

    def _charge(self) -> Callable[[Tensor, State], tuple[Tensor, Tensor]]:
        offset = (1 - self.decay_mem) * self.leak

        def charge(x: Tensor, state: State) -> tuple[Tensor, Tensor]:
            i = x if self.decay_syn is None else self.decay_syn * state.current + x
            return self.decay_mem * state.potential + self.gain * i + offset, i

        return charge

    def _fire(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.threshold is None:
            return u, u
        out = spike(u - self.threshold, self.surrogate)
        fired = out.detach()
        return out, u - self.threshold * fired if self.reset == "subtract" else u + (self.v_reset - u) * fired

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        constants = {"decay_mem": self.decay_mem, "decay_syn": self.decay_syn, "gain": self.gain}
        known = constants | {"leak": self.leak, "threshold": self.threshold}
        return ", ".join([*(f"{k}={shown(v)}" for k, v in known.items() if v is not None), f"dt={self.dt:g}"])
