"""Neurons of your own, from one step in torch: with fused loops, theory and initialisers like the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fluctua.neurons.leaky import Neuron, at_rest, shown
from fluctua.theory.psp import checked_dt
from fluctua.timeloop.contract import Dynamics, LoopResult, Tensors

OwnStep = Callable[..., tuple[Tensor, Tensors]]


def from_step(
    step: OwnStep,
    *,
    constants: Mapping[str, float | Tensor],
    threshold: str | None = "threshold",
    rest: Sequence[float] = (0.0,),
    inputs: int = 1,
    dt: float = 1e-3,
) -> "StepNeuron":
    """A module from one step of a neuron, with fused loops on CPU and GPU.

    `step(x, state, constants) -> output, state after` is a function of torch, neuron by neuron: `x` is the input
    current of the step (a tuple for several inputs), `state` a tuple of tensors, the potential
    first, and `constants` a mapping by name. A spike is `fluctua.neurons.spike(distance from threshold)`, whose
    gradient is a surrogate's. The step is traced once; the loops and their gradients are derived from the trace.
    It may use `+ - * /`, comparisons, `torch.where, exp, log, sqrt, sigmoid, tanh, erf, sin, cos, abs, minimum,
    maximum, clamp, round, floor`. Any other step runs too, slowly, and the log says why.

    Args:
        step: the function. It must not change later, nor depend on anything but its arguments.
        constants: numbers or tensors that broadcast to the population's shape; an `nn.Parameter` is trained.
        threshold: name of the threshold among the constants; None for a readout, which never spikes.
        rest: the state before the first step, one number for each part of it.
        inputs: number of input currents.
        dt: time step in seconds.

    Raises:
        ValueError: no constant of the threshold's name, or no state.

    Example:
        >>> import math
        >>> def resonate_and_fire(x, state, c):
        ...     u, v = state
        ...     u, v = c["decay"] * (c["cos"] * u - c["sin"] * v) + x, c["decay"] * (c["sin"] * u + c["cos"] * v)
        ...     out = spike(u - c["theta"])
        ...     return out, (u - c["theta"] * out.detach(), v)
        >>> angle = 2 * math.pi * 40 * 1e-3  # 40 Hz at 1 ms
        >>> numbers = {"decay": 0.95, "cos": math.cos(angle), "sin": math.sin(angle), "theta": 1.0}
        >>> from fluctua.neurons import from_step, spike
        >>> neurons = from_step(resonate_and_fire, constants=numbers, threshold="theta", rest=(0.0, 0.0))
        >>> neurons(torch.full((100, 1, 1), 0.5)).sum().item()
        11.0
    """
    return StepNeuron(step, constants, threshold, tuple(float(value) for value in rest), inputs, checked_dt(dt))


@dataclass(frozen=True)
class _Named:
    """A step with constants by name, wrapped for the loops, which pass them in order."""

    function: OwnStep
    names: tuple[str, ...]
    inputs: int

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        x = inputs[0] if self.inputs == 1 else inputs
        output, after = self.function(x, state, dict(zip(self.names, constants, strict=True)))
        return output, tuple(after)


class StepNeuron(Neuron):
    """What `from_step` makes: input currents `[T, B, *N]` -> output of the same shape."""

    def __init__(
        self,
        step: OwnStep,
        constants: Mapping[str, float | Tensor],
        threshold: str | None,
        rest: tuple[float, ...],
        inputs: int,
        dt: float,
    ) -> None:
        super().__init__()
        if threshold is not None and threshold not in constants:
            raise ValueError(
                f"the threshold {threshold!r} is not among the constants {sorted(constants)}: name it with threshold=, "
                "or pass threshold=None for a readout"
            )
        if not rest or not constants:
            raise ValueError("a neuron needs at least one constant and one state variable, the potential")
        self.dt, self._names, self._rest, self._threshold = dt, tuple(constants), rest, threshold
        self._step = _Named(step, self._names, inputs)
        for name, value in constants.items():
            if hasattr(self, name):
                raise ValueError(
                    f"a constant cannot be called {name!r}, which is an attribute of every module: rename it"
                )
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, torch.as_tensor(value, dtype=torch.get_default_dtype()).clone())

    @property
    def spiking(self) -> bool:
        """Whether it has a threshold."""
        return self._threshold is not None

    def dynamics(self) -> Dynamics:
        """The step and its constants, from the live parameters."""
        constants = tuple(getattr(self, name) for name in self._names)
        return Dynamics(self._step, constants, len(self._rest), self._step.inputs, spiking=self.spiking)

    def facts(self) -> tuple[tuple[float, ...], Tensor | None]:
        """The state before the first step, and the threshold."""
        return self._rest, None if self._threshold is None else getattr(self, self._threshold)

    def initial_state(self, current: Tensor) -> Tensors:
        """State before the first step for a current `[T, B, *N]`. For one step `x`, pass `x[None]`."""
        zero = at_rest(current)
        return tuple(zero + value for value in self._rest)

    def simulate(self, *currents: Tensor, state: Tensors | None = None) -> LoopResult:
        """Run the time loop and return everything: output, potential before each step, and final state.

        Raises:
            ValueError: a wrong number of currents; see also `timeloop.engines.integrate`.
        """
        if len(currents) != self._step.inputs:
            raise ValueError(f"the neuron takes {self._step.inputs} input currents, got {len(currents)}")
        return self._simulate(currents, state)

    def forward(self, *currents: Tensor) -> Tensor:
        """Input currents `[T, B, *N]` -> spikes, or the output of a readout, of the same shape."""
        return self.simulate(*currents).output

    def stepper(self) -> Callable[..., tuple[Tensor, Tensors]]:
        """One step: `(current [B, *N], ..., state) -> (output [B, *N], next state)`."""
        advance = self._stepper()
        if self._step.inputs == 1:  # circuits count the arguments
            return lambda current, state: advance((current,), state)
        return lambda *arguments: advance(arguments[:-1], arguments[-1])

    def extra_repr(self) -> str:
        """The step and its constants, for `print(model)`."""
        constants = [f"{name}={shown(getattr(self, name))}" for name in self._names]
        return ", ".join([getattr(self._step.function, "__name__", "step"), *constants, f"dt={self.dt:g}"])
