"""Leaky neurons given by their constants per step; they respond in the step of the input."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fluctua.neurons.leaky import Surrogated, shown
from fluctua.neurons.own_step import StepNeuron
from fluctua.neurons.steps import Reset, checked_reset
from fluctua.neurons.surrogates import SuperSpike, Surrogate, spike
from fluctua.theory.psp import checked_dt
from fluctua.timeloop.contract import Tensors


@dataclass(frozen=True)
class _Step:
    """One step of `CurrentBased`; without a reset, that of a readout."""

    reset: Reset | None
    surrogate: Surrogate

    def __call__(self, x: Tensor, state: Tensors, c: Mapping[str, Tensor]) -> tuple[Tensor, Tensors]:
        u, *synaptic = state
        i = c["decay_syn"] * synaptic[0] + x if synaptic else x
        u = c["decay_mem"] * u + c["gain"] * i + (1 - c["decay_mem"]) * c["leak"]
        after = (i,) if synaptic else ()
        if self.reset is None:
            return u, (u, *after)
        out = spike(u - c["threshold"], self.surrogate)
        fired = out.detach()
        u = u - c["threshold"] * fired if self.reset == "subtract" else u + (c["v_reset"] - u) * fired
        return out, (u, *after)


class CurrentBased(StepNeuron, Surrogated):
    """A leaky membrane, with or without a synaptic current, as in NIR graphs and most frameworks.

    In each step ::

        I <- decay_syn I + x, or x without synaptic current
        U <- leak + decay_mem (U - leak) + gain I
        out = H(U - threshold)
        U <- v_reset where out = 1 (reset "zero"), or U - threshold out (reset "subtract")

    whereas the `LIF` of the paper needs two steps from an input to its effect. Constants are numbers, or tensors that
    broadcast to the population's shape; they are not trained.

    Args:
        decay_mem: factor per step in [0, 1]; at 1 it is a perfect integrator, which has no `leak`.
        gain: of the membrane, for the current.
        dt: time step in seconds.
        decay_syn: factor per step in [0, 1), or None for no synaptic current.
        leak: resting potential.
        threshold: None for a readout, which never spikes and returns its potential.
        v_reset: potential after a spike, for the reset "zero".
        reset: "zero" or "subtract".
        surrogate: `SuperSpike` (default), `SigmoidDerivative` or `ArcTan`.

    Raises:
        ValueError: a decay out of its range, a time step that is not positive, or an unknown reset.
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
        constants = {"decay_mem": decay_mem, "gain": gain, "leak": leak, "v_reset": v_reset}
        optional = {"decay_syn": decay_syn, "threshold": threshold}
        constants |= {name: value for name, value in optional.items() if value is not None}
        step = _Step(
            None if threshold is None else checked_reset(reset), surrogate if surrogate is not None else SuperSpike()
        )
        rest = (0.0,) if decay_syn is None else (0.0, 0.0)
        StepNeuron.__init__(self, step, constants, None if threshold is None else "threshold", rest, 1, checked_dt(dt))
        self._built = step.surrogate
        for name in optional.keys() - constants.keys():
            self.register_buffer(name, None)
        for name, decay in (("decay_mem", self.decay_mem), ("decay_syn", self.decay_syn)):
            if decay is not None and not bool(((decay >= 0) & (decay <= 1)).all()):
                raise ValueError(f"{name} must lie in [0, 1], got {shown(decay)}: is the time step too long?")

    @property
    def surrogate(self) -> Surrogate:  # type: ignore[override]
        """Stands in for the derivative of a spike in backward."""
        step: _Step = self._step.function  # type: ignore[assignment]
        return step.surrogate

    @surrogate.setter
    def surrogate(self, value: Surrogate) -> None:
        self._step = replace(self._step, function=replace(self._step.function, surrogate=value))  # type: ignore[type-var]

    def initial_state(self, current: Tensor) -> Tensors:
        """State before the first step for an input current `[T, B, *N]`: at rest. For one step `x`, pass `x[None]`."""
        u, *others = super().initial_state(current)
        return u + self.leak.to(u), *others

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        constants = {"decay_mem": self.decay_mem, "decay_syn": self.decay_syn, "gain": self.gain}
        known = constants | {"leak": self.leak, "threshold": self.threshold}
        return ", ".join([*(f"{k}={shown(v)}" for k, v in known.items() if v is not None), f"dt={self.dt:g}"])
