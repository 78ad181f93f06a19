"""The leaky neurons: integrate-and-fire and readout, their time constants, and their calls of the time loop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.neurons.steps import LeakyStep, Reset, checked_reset
from fluctua.neurons.surrogates import SuperSpike, Surrogate
from fluctua.theory.psp import Array, PspKernel, checked_dt, number
from fluctua.timeloop import engines
from fluctua.timeloop.contract import Dynamics, LoopResult, Tensors, step_for

_SUPERSPIKE = SuperSpike()

Tau = float | Tensor


class Neuron(nn.Module):
    """Neurons defined by one step."""

    def dynamics(self) -> Dynamics:
        """The step and its constants, from the live parameters."""
        raise NotImplementedError

    def initial_state(self, current: Tensor) -> Any:
        """State before the first step for an input current `[T, B, *N]`. For one step `x`, pass `x[None]`."""
        raise NotImplementedError

    def parts_of(self, state: Any) -> Tensors:
        """The parts of a state, as the step takes them."""
        return tuple(state)

    def _after(self, parts: Tensors, before: Any) -> Any:
        """The inverse of `parts_of`; parts that the step does not have stay as before."""
        return parts

    def _simulate(self, currents: Tensors, state: Any) -> LoopResult:
        state = self.initial_state(currents[0]) if state is None else state
        result = engines.integrate(currents, self.dynamics(), self.parts_of(state))
        return result._replace(state=self._after(result.state, state))

    def _stepper(self) -> Callable[[Tensors, Any], tuple[Tensor, Any]]:
        advance = engines.step_by_step(self.dynamics())

        def step(currents: Tensors, state: Any) -> tuple[Tensor, Any]:
            output, parts = advance(currents, self.parts_of(state))
            return output, self._after(parts, state)

        return step


class State(NamedTuple):
    """State between two steps: potential `U`, synaptic current `I` and, with adaptation, `w`, each `[B, *N]`."""

    potential: Tensor
    current: Tensor
    adaptation: Tensor | None = None


Stepper = Callable[[Tensor, State], tuple[Tensor, State]]


def tau_property(name: str, meaning: str) -> Any:
    """A time constant that `register_tau` keeps."""
    return property(lambda self: getattr(self, f"log_{name}").exp(), doc=meaning)


class LeakyNeuron(Neuron):
    """A leaky membrane behind an exponential or a delta synapse: what `LIF` and `LI` share, and their arguments.

    Trained time constants are kept as logarithms, so they stay positive.
    """

    spiking: bool
    log_tau_mem: Tensor
    log_tau_syn: Tensor | None

    def __init__(self, tau_mem: Tau, tau_syn: Tau | None, dt: float, *, learn_tau: bool = False) -> None:
        super().__init__()
        self.dt = checked_dt(dt)
        register_tau(self, "tau_mem", tau_mem, learn_tau)
        if tau_syn is None:
            self.log_tau_syn = None
        else:
            register_tau(self, "tau_syn", tau_syn, learn_tau)

    tau_mem = tau_property("tau_mem", "Membrane time constant in seconds.")

    @property
    def tau_syn(self) -> Tensor | None:
        """Synaptic time constant in seconds; None for a delta synapse."""
        return None if self.log_tau_syn is None else self.log_tau_syn.exp()

    def _dynamics(self, constants: Tensors, *options: Any) -> Dynamics:
        """The dynamics of a `LeakyStep`, from the constants and options besides the time constants."""
        _, exponential, _ = self._has
        taus = (self.tau_mem, self.tau_syn) if exponential else (self.tau_mem,)
        decays = (torch.exp(-self.dt / tau) for tau in taus if tau is not None)
        step = step_for(LeakyStep, exponential, *options)
        return Dynamics(step, (*decays, *constants), sum(self._has), spiking=self.spiking)

    def kernels(self) -> tuple[PspKernel]:
        """The PSP kernel, in closed form."""
        tau_mem = numbers(self.tau_mem)
        if self.tau_syn is None:
            return (PspKernel.delta(tau_mem, self.dt),)
        return (PspKernel.exponential(tau_mem, numbers(self.tau_syn), self.dt),)

    @property
    def _has(self) -> tuple[bool, bool, bool]:
        """Which parts of a `State` the step has."""
        return True, self.log_tau_syn is not None, False

    def initial_state(self, current: Tensor) -> State:
        """State before the first step for an input current `[T, B, *N]`: at rest. For one step `x`, pass `x[None]`."""
        rest = at_rest(current)
        return State(rest, rest)

    def parts_of(self, state: State) -> Tensors:
        """The parts of a state, as the step takes them."""
        there = [part for part, has in zip(state, self._has, strict=True) if has]
        if any(part is None for part in there):
            raise ValueError("the state of a population that adapts needs an adaptation, got None")
        return tuple(there)  # type: ignore[arg-type]

    def _after(self, parts: Tensors, before: State) -> State:
        new = list(parts)
        return State(*(new.pop(0) if has else old for old, has in zip(before, self._has, strict=True)))  # type: ignore[arg-type]

    def simulate(self, current: Tensor, state: State | None = None) -> LoopResult:
        """Run the time loop and return everything: output, potential and final state (see `LoopResult`)."""
        return self._simulate((current,), state)

    def forward(self, current: Tensor) -> Tensor:
        """Input current `[T, B, *N]` -> output of the same shape."""
        return self.simulate(current).output

    def stepper(self) -> Stepper:
        """The neuron one step at a time, with the constants evaluated once: see `timeloop.engines.step_by_step`.

        A function `(current [B, *N], state) -> (output [B, *N], next state)`; start it from `initial_state`.
        """
        advance = self._stepper()
        return lambda current, state: advance((current,), state)

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: current `[B, *N]`, state -> output `[B, *N]`, next state. In a loop `stepper` is faster."""
        return self.stepper()(current, state)

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        taus = [f"tau_mem={shown(self.tau_mem)}"]
        taus.append("delta synapse" if self.tau_syn is None else f"tau_syn={shown(self.tau_syn)}")
        return ", ".join([*taus, f"dt={self.dt:g}"])


def register_tau(module: nn.Module, name: str, tau: Tau, learn: bool) -> None:
    """Keep a time constant as its logarithm, `log_<name>`: a parameter of the module if it is learnt, else a buffer."""
    value = constant(tau)
    if not value.is_meta and not bool(((value > 0) & value.isfinite()).all()):
        raise ValueError(f"{name} must be a positive number of seconds, got {tau!r}")
    if learn:
        module.register_parameter(f"log_{name}", nn.Parameter(value.log()))
    else:
        module.register_buffer(f"log_{name}", value.log())


def at_rest(current: Tensor) -> Tensor:
    """Zeros `[B, *N]` for a current `[T, B, *N]`, in single precision or more."""
    return current.new_zeros(current.shape[1:], dtype=torch.promote_types(current.dtype, torch.float32))


def constant(value: Any) -> Tensor:
    """A copy of a constant in torch's default type; NaN, which lies in no range, for what is none."""
    try:
        found = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()
        return found if found.numel() else torch.tensor(torch.nan)
    except (TypeError, ValueError, RuntimeError):
        return torch.tensor(torch.nan)


def numbers(constant: Any) -> Array:
    """The values of a number, tensor or parameter, for the theory."""
    values: Array = torch.as_tensor(constant).detach().double().cpu().numpy()
    return values


def shown(constant: Tensor) -> str:
    """One number, or the range over a population whose neurons differ."""
    values = constant.detach().flatten()
    if constant.is_meta:
        return "meta"
    return f"{values[0]:.4g}" if len(values) == 1 else f"{values.min():.4g}..{values.max():.4g}"


class Surrogated(nn.Module):
    """Neurons with a `surrogate`; checkpoints keep its sharpness if it differs from the one they were built with."""

    surrogate: Surrogate
    _built: Surrogate

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        if self.surrogate != self._built and type(self.surrogate) is type(self._built):
            destination[f"{prefix}surrogate_beta"] = torch.tensor(self.surrogate.beta, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any) -> None:
        *_, unexpected, _ = more
        super()._load_from_state_dict(state_dict, prefix, *more)  # type: ignore[no-untyped-call]
        if (name := f"{prefix}surrogate_beta") in state_dict:
            self.surrogate = replace(self._built, beta=float(state_dict[name]))
            if name in unexpected:
                unexpected.remove(name)
        elif any(key.startswith(prefix) for key in state_dict):  # it was saved with the one that it was built with
            self.surrogate = self._built


class Firing(Surrogated):
    """Threshold, reset and surrogate of spiking neurons (see `LIF`)."""

    spiking = True
    threshold: Tensor
    reset: Reset
    differentiable_reset: bool

    def _set_firing(
        self, threshold: float | Tensor, reset: Reset, differentiable_reset: bool, surrogate: Surrogate | None
    ) -> None:
        theta = constant(threshold)
        if not theta.is_meta and not bool(((theta > 0) & theta.isfinite()).all()):
            raise ValueError(f"a threshold must be positive and finite, got {threshold!r}")
        self.register_buffer("threshold", theta)
        self.reset = checked_reset(reset)
        self.differentiable_reset = differentiable_reset
        self.surrogate = self._built = surrogate if surrogate is not None else SuperSpike()

    @property
    def _options(self) -> tuple[Reset, bool, Surrogate]:
        """As the steps take them."""
        return self.reset, self.differentiable_reset, self.surrogate

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
        reset: "zero" (the paper's: U and the step's drive are lost) or "subtract" (theta is subtracted from the new U).
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

    def dynamics(self) -> Dynamics:
        """The step and its constants, from the live parameters."""
        return self._dynamics((self.threshold,), *self._options)

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        return f"{super().extra_repr()}, {self._firing_repr()}"


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
        if not np.isfinite(number(initial)):
            raise ValueError(f"initial must be a finite potential, got {initial!r}")
        self.initial = initial

    def dynamics(self) -> Dynamics:
        """The step and its constants, from the live parameters."""
        return self._dynamics((), None, False, _SUPERSPIKE)

    def initial_state(self, current: Tensor) -> State:
        """State before the first step for an input current `[T, B, *N]`."""
        rest = super().initial_state(current)
        return rest._replace(potential=torch.full_like(rest.potential, self.initial))

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        return f"{super().extra_repr()}, initial={self.initial:g}"
