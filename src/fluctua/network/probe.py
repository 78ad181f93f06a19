"""Neurons of unknown classes, measured by a small impulse.

A neuron that is linear below its threshold is known by its impulse response. It is run in float64 from rest, once
without input, once with a small impulse and once with its negative: half the difference between the last two
is the kernel. If they do not mirror each other, the neuron rectifies; if the response never decays, it integrates, and
the length of the trial takes the place of its time constant.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import signature
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron
from fluctua.network.preserve import in_double
from fluctua.network.run import Layout, parameters_of, tensors_in
from fluctua.theory import PspKernel
from fluctua.theory.psp import Array

_OFF = 0.02  # relative to the input that should just make a neuron fire
_IMPULSE = 1e-3
_SHRINKINGS = 4  # by a factor of 1000 each, for a neuron that fires at the impulse
_LENGTHS = (128, 512, 2048)  # steps; the response is followed until it has decayed
_GROWTH = 4  # from the third to the last quarter of a response; that of a double integrator grows by less
_AT_ONCE = 5  # steps within which a graded output appears
_DEAD = 1e-9  # of the peak
_MIRRORED = 1e-3  # asymmetry above which a neuron rectifies, of the peak
_LINEAR = 0.01  # change of the response to a large impulse, of the peak, that is worth a note


@dataclass(frozen=True)
class ProbedNeuron:
    """The facts that fluctua needs about a neuron class that it does not know; it measures the rest.

    The class takes one input current and returns its spikes first (a readout: its potential).

    Attributes:
        threshold: `theta`, the attribute of the module that holds it, or a function of the module; None for a readout,
            which never spikes.
        membrane: where the potential is after a call: an attribute of the module ("v", "state.v"), the index of an
            item of the output, or a function of module and output. None if it is a local variable of the call: then
            give `decay`.
        time: the module is called with one time step `[B, *N]` ("step") or a whole sequence, `[T, B, *N]` ("first") or
            `[B, T, *N]` ("second").
        reset: brings the module to rest: the name of a method, or a function of the module. None if it keeps nothing
            between trials.
        passes_state: whether the call takes, after the current, what the last call returned after the spikes.
        start: what the first call takes so, a function of module and current, if it requires it; default: zeros.
        shape: `[*N]` of the population, if the module runs on no other and its parameters do not tell it.
        decay: without `membrane`, the fraction of the potential left after a step, an attribute, or a function.
        decay_syn: the same for a synaptic current in front, if there is one.
        gain: how far an input of 1 moves the potential (or the current) in its step.

    Example:
        >>> class Leaky(nn.Module):
        ...     def reset(self):
        ...         self.v = 0.0
        ...     def forward(self, x):
        ...         self.v = 0.9 * self.v + x
        ...         spikes = (self.v >= 1).float()
        ...         self.v = self.v * (1 - spikes)
        ...         return spikes
        >>> described = {Leaky: ProbedNeuron(threshold=1.0, membrane="v", reset="reset")}
        >>> import fluctua
        >>> x = (torch.rand(100, 16, 30) < 0.1).float()
        >>> report = fluctua.initialize(nn.Sequential(nn.Linear(30, 20), Leaky()), x, neurons=described, seed=0)
        >>> print(f"{report['1'].sigma_u:.2f}")
        1.00
    """

    threshold: float | str | Callable[[Any], Any] | None
    membrane: str | int | Callable[[Any, Any], Tensor] | None = None
    time: Literal["first", "second", "step"] = "step"
    reset: str | Callable[[Any], Any] | None = None
    passes_state: bool = False
    shape: tuple[int, ...] | None = None
    decay: float | str | Callable[[Any], Any] | None = None
    decay_syn: float | str | Callable[[Any], Any] | None = None
    gain: float | str | Callable[[Any], Any] = 1.0
    start: Callable[[Any, Tensor], tuple[Any, ...]] | None = None

    def __post_init__(self) -> None:
        if (self.membrane is None) is (self.decay is None):
            raise ValueError("a ProbedNeuron needs membrane= (where its potential is) or decay= (how it decays)")

    def bring_to_rest(self, module: nn.Module) -> None:
        """Forget all input so far."""
        if isinstance(self.reset, str):
            getattr(module, self.reset)()
        elif self.reset is not None:
            self.reset(module)

    def first_state(self, module: nn.Module, x: Tensor) -> tuple[Any, ...]:
        """What the first call takes after the current `x`."""
        behind = [*signature(module.forward).parameters.values()][1:]
        if self.start is not None:
            states = self.start(module, x)
            # A tuple of states is one argument where no more are taken.
            one = len(behind) == 1 and behind[0].kind < behind[0].VAR_POSITIONAL and len(states) > 1
            return (states,) if one else states
        if not self.passes_state:
            return ()
        return tuple(torch.zeros_like(x) for a in behind if a.default is a.empty and a.kind < a.VAR_POSITIONAL)

    def state(self, module: nn.Module, passed: Any) -> tuple[Any, ...]:
        """The state that is passed, or the potential that the module keeps now.

        Raises:
            UnsupportedNeuronError: it keeps none in an attribute.
        """
        if self.passes_state:
            return tuple(tensors_in(passed))
        if not isinstance(self.membrane, str):
            raise UnsupportedNeuronError(f"where {type(module).__name__} keeps its state is not known")
        return (_read(module, "membrane", self.membrane),)

    def theta(self, module: nn.Module) -> Any:
        """The threshold as the module keeps it.

        Raises:
            UnsupportedNeuronError: the module has no such attribute.
        """
        return _read(module, "threshold", self.threshold)

    def stated(self, module: nn.Module, dt: float) -> PspKernel:
        """The kernel given by `decay`, `decay_syn` and `gain`.

        Raises:
            UnsupportedNeuronError: a decay outside of 0 to 1, or no such attribute.
        """
        parts = {"gain": self.gain, "decay": self.decay, "decay_syn": self.decay_syn}
        gain, *decays = (
            float(torch.as_tensor(_read(module, name, value)).double().mean())
            for name, value in parts.items()
            if value is not None
        )
        if not all(0 <= decay < 1 for decay in decays):
            raise UnsupportedNeuronError(
                f"the decays {decays} of the neuron {type(module).__name__} must be fractions left after a step, "
                "from 0 to less than 1: check decay= and decay_syn= of its ProbedNeuron"
            )
        mem, *syn = decays
        return PspKernel.two_poles(gain, mem, syn[0], dt) if syn else PspKernel.one_pole(gain, mem, dt)

    def potential(self, module: nn.Module, output: Any) -> Tensor:
        """The potential after a call that returned `output`."""
        if self.membrane is None:
            found = next(tensors_in(output))  # it is not accessible
        elif isinstance(self.membrane, str):
            found = attrgetter(self.membrane)(module)
        elif isinstance(self.membrane, int):
            found = output[self.membrane]
        else:
            found = self.membrane(module, output)
        if not isinstance(found, Tensor):
            raise ValueError(f"the potential {self.membrane!r} is a {type(found).__name__}, not a tensor")
        return found


def _read(module: nn.Module, name: str, value: Any) -> Any:
    """A number, the module's attribute of this name, or what a function makes of the module."""
    try:
        return attrgetter(value)(module) if isinstance(value, str) else value(module) if callable(value) else value
    except AttributeError as error:
        raise UnsupportedNeuronError(
            f"the neuron {type(module).__name__} has no attribute {value!r}: check {name}= of its ProbedNeuron, a "
            "number or the name of an attribute"
        ) from error


def probe(module: nn.Module, spec: ProbedNeuron, timing: Timing) -> Neuron:
    """Measure the facts of a neuron; the module is not changed.

    While the trial's length is not known nothing is measured, and a placeholder stands for the kernel.

    Raises:
        UnsupportedNeuronError: a module that cannot be run, fires without input, never comes to rest, does not
            respond, or responds differently to negative and positive impulses.
    """
    theta, in_steps = spec.theta(module), timing.dt is None
    if timing.steps is None:
        return Neuron.spiking((PspKernel.integrator(1.0, timing.unit, timing.trial),), theta, in_steps=in_steps)
    bench = _Bench(module, spec)
    if spec.membrane is None:
        return _stated(bench, theta, timing)
    start, rest = _resting(bench)
    for length in sorted({*_LENGTHS, max(timing.steps, max(_LENGTHS))}):
        eps = _response(bench, start, length)
        settled, endless = _tail(eps)
        if settled or (endless and length >= timing.steps):
            break
    kernel = _kernel(eps, timing, settled)
    notes = ["its kernel was measured"]
    if not settled:
        notes.append("it does not settle within the trial, so its moments are averages over the trial's length")
    neuron = Neuron.spiking((kernel,), theta, rest, in_steps=in_steps)
    distance = None if neuron.threshold is None else neuron.threshold - rest
    if distance is not None and (change := _nonlinearity(bench, start, eps, distance)) > _LINEAR:
        notes.append(f"it is linear only near rest: half-way to threshold its response deviates by {change:.0%}")
    return replace(neuron, note="; ".join(notes))


def _stated(bench: "_Bench", theta: Any, timing: Timing) -> Neuron:
    """The facts that the user states, as far as spikes bear them out."""
    kernel = bench.spec.stated(bench.module, timing.unit)
    if theta is not None:
        distance = float(torch.as_tensor(theta).double().mean())
        pulse = distance / float(np.max(kernel.response(_LENGTHS[0])))
        _, (below, above) = bench.run([(1 - _OFF) * pulse, (1 + _OFF) * pulse], 0, _LENGTHS[0])
        if below or not above:
            raise UnsupportedNeuronError(
                f"{bench.name} does not behave as its ProbedNeuron says: an input of {pulse:.4g} in one step "
                f"should just raise it to its threshold {distance:g}, but it fires {'below' if below else 'not above'} "
                "that: check threshold=, decay=, decay_syn= and gain="
            )
    return Neuron.spiking((kernel,), theta, in_steps=timing.dt is None, note="its kernel is the one stated")


class _Bench:
    """Runs a neuron from rest on an input that is the same for all of its neurons."""

    def __init__(self, module: nn.Module, spec: ProbedNeuron) -> None:
        self.module, self.spec, self.layout = module, spec, Layout(spec.time)
        self.name = type(module).__name__
        self.shape: tuple[int, ...] = ()
        self._find_shape()

    def run(
        self, pulses: list[float], start: int, steps: int, *, alone: bool = False
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Potentials `[steps, P, *N]` with one of the P pulses each at step `start`, and which of them made spikes."""
        device = next((p.device for p in parameters_of(self.module)), None)
        x = torch.zeros(steps, len(pulses), *self.shape, dtype=torch.float64, device=device)
        x[start] += torch.tensor(pulses, dtype=x.dtype, device=device).reshape(-1, *[1] * len(self.shape))
        if alone:  # only the first neuron
            x.flatten(2)[..., 1:] = 0
        with torch.no_grad(), in_double(self.module):
            self.spec.bring_to_rest(self.module)
            u, spikes = self._step_by_step(x) if self.layout.stepwise else self._whole(x)
        fired = (spikes != 0).flatten(2).any(2).any(0) & (self.spec.threshold is not None)
        potential: Array = u.cpu().numpy()
        return potential, fired.cpu().numpy()

    def _whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One call with the sequence, or one for each of its prefixes if only the last potential comes out."""
        output = self.module(self.layout.as_called(x))
        found = self.spec.potential(self.module, output).clone()
        u = self.layout.as_sequence(found) if found.ndim > 1 else found
        if u.ndim == x.ndim and u.shape[:2] == x.shape[:2]:
            return u, self.layout.as_sequence(self.layout.spikes(self.module, output))
        self.spec.bring_to_rest(self.module)
        potentials, spikes = self._step_by_step(x)
        if not torch.allclose(potentials[-1].flatten(), found.flatten(), rtol=1e-6, atol=1e-15):
            raise ValueError("step by step it ends at another potential: give membrane= for all time steps")
        return potentials, spikes

    def _step_by_step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One call for each step; with sequences of one step for a module that takes sequences."""
        potentials, spikes = [], []
        state = self.spec.first_state(self.module, self.layout.as_called(x[:1]))
        for now in x.unsqueeze(1).unbind(0):
            output = self.module(self.layout.as_called(now), *state)
            state = tuple(output[1:]) if self.spec.passes_state else ()
            emitted = self.layout.as_sequence(self.layout.spikes(self.module, output))
            u = self.spec.potential(self.module, output).reshape(emitted.shape)
            potentials.append(u.clone())
            spikes.append(emitted)
        return torch.cat(potentials), torch.cat(spikes)

    def _find_shape(self) -> None:
        """The population's shape, or one that its constants broadcast to it."""
        failure: Exception | None = None
        for shape in [self.spec.shape] if self.spec.shape else self._guesses():
            self.shape = shape
            try:
                self.run([_IMPULSE, -_IMPULSE], 0, 5)
                failure = None
                break
            except Exception as error:  # foreign code may raise anything
                failure = failure or error
        way = "check time=, membrane=, reset= and passes_state= of its ProbedNeuron, and shape= or start= if needed"
        if weights := [name for name, p in self.module.named_parameters() if p.ndim > 1]:
            way += f"; apply weights that it holds ({', '.join(weights)}) before it, or set them by fluctua.measured_"
            if failure is None and self._mixes():
                failure = ValueError("its current passes weights on its way to the potential")
        if failure is not None:
            raise UnsupportedNeuronError(
                f"the neuron {self.name} could not be run to measure its kernel ({type(failure).__name__}: {failure}): "
                f"{way}"
            ) from failure

    def _mixes(self) -> bool:
        """Whether the current of one neuron reaches others."""
        u, _ = self.run([0.0, _IMPULSE], 0, 5, alone=True)
        return u.shape[2:] != self.shape or bool((u[:, 1] - u[:, 0]).reshape(5, -1)[:, 1:].any())

    def _guesses(self) -> list[tuple[int, ...]]:
        own = [tuple(p.shape) for p in parameters_of(self.module)]
        kept = [tuple(b.shape) for b in self.module.buffers() if b.numel()]  # a state may still be empty
        guesses: dict[tuple[int, ...], None] = {}
        for shapes in (own + kept, own):
            with suppress(ValueError):
                guesses[np.broadcast_shapes((1,), *shapes)] = None
        return [*guesses, (1,)]


def _resting(bench: _Bench) -> tuple[int, float]:
    """The step at which the neuron has come to rest, and the potential there."""
    for length in _LENGTHS:
        u, fired = bench.run([0.0], 0, length)
        if fired.any():
            raise UnsupportedNeuronError(
                f"the neuron {bench.name} fires without input, so it has no resting potential that its weights could "
                "start from: give it constants with which it rests, or reset= if it was not at rest"
            )
        away = np.abs(u - u[-1]).reshape(length, -1).max(1)
        moving = np.flatnonzero(away > _DEAD * max(1.0, float(np.abs(u).max())))
        if len(moving) == 0:
            return 0, float(u[-1].mean())
        if moving[-1] < length // 2:
            return int(moving[-1]) + 1, float(u[-1].mean())
    raise UnsupportedNeuronError(
        f"the neuron {bench.name} does not come to rest without input within {_LENGTHS[-1]} steps, so its mean "
        "potential cannot be set: remove its self-generated input while it is initialised"
    )


def _response(bench: _Bench, start: int, steps: int) -> Array:
    """The response `[steps, *N]` to an impulse of 1 at step `start`."""
    amplitude = _IMPULSE
    for _ in range(_SHRINKINGS):
        u, fired = bench.run([0.0, amplitude, -amplitude], start, start + steps)
        if not fired.any():
            break
        amplitude *= 1e-3
    else:
        if not bench.run([0.0, amplitude, -amplitude], start, start + _AT_ONCE)[1].any():
            _refuse_unstable(bench, np.abs(u[start:, 1] - u[start:, 0]).max(0) > 1e6 * amplitude, steps)
        raise UnsupportedNeuronError(
            f"the neuron {bench.name} already emits something at an input of {amplitude:g}: neurons with a graded "
            "output cannot be served, one that spikes needs a threshold above its resting potential"
        )
    up, down = (u[start:, k] - u[start:, 0] for k in (1, 2))
    eps = (up - down) / (2 * amplitude)
    before, last = (np.abs(part).max(0) for part in (eps[steps // 2 : -(steps // 4)], eps[-(steps // 4) :]))
    _refuse_unstable(bench, last > _GROWTH * before, steps)
    peak = float(np.abs(eps).max())
    if not peak > 0 or not np.isfinite(peak):
        raise UnsupportedNeuronError(
            f"the potential of {bench.name} does not respond to an impulse (largest response {peak:g} within "
            f"{steps} steps): check membrane= of its ProbedNeuron"
        )
    if (skew := float(np.abs(up + down).max()) / (2 * amplitude * peak)) > _MIRRORED:
        raise UnsupportedNeuronError(
            f"the neuron {bench.name} responds differently to negative and positive impulses ({skew:.0%} of the "
            "response): it rectifies, so its mean potential cannot be set through its weights; lower its floor"
        )
    return eps


def _refuse_unstable(bench: _Bench, grown: NDArray[np.bool_], steps: int) -> None:
    if grown.any():
        raise UnsupportedNeuronError(
            f"{int(grown.sum())} of {grown.size} neurons of {bench.name} are unstable: below threshold an impulse "
            f"grows for {steps} steps; check their constants, such as the coupling of adaptation to the potential"
        )


def _tail(eps: Array) -> tuple[bool, bool]:
    """Whether a response has decayed, and whether it never will, since it stays or grows."""
    peak = np.abs(eps).max()
    last, before = np.abs(eps[-len(eps) // 4 :]), np.abs(eps[len(eps) // 2 : -len(eps) // 4])
    return bool(last.max() <= _DEAD * peak), bool(last.max() >= (1 - _DEAD) * before.max())


def _kernel(eps: Array, timing: Timing, settled: bool) -> PspKernel:
    flat = eps.reshape(len(eps), -1)
    if np.abs(flat - flat[:, :1]).max() <= 1e-12 * np.abs(flat).max():  # all neurons alike
        eps = flat[:, 0]
    kernel = PspKernel.from_response(eps, timing.unit)
    return kernel if settled else kernel.over_trial(timing.trial)


def _nonlinearity(bench: _Bench, start: int, eps: Array, distance: float) -> float:
    """Distance, relative to the peak, between `eps` and the response to impulses half-way to threshold."""
    peak = float(np.abs(eps).max())
    pulse, steps = distance / 2 / peak, min(len(eps), _LENGTHS[0])
    u, _ = bench.run([0.0, pulse, -pulse], start, start + steps)
    responses = [(u[start:, k] - u[start:, 0]) / sign / pulse for k, sign in ((1, 1), (2, -1))]
    return max(float(np.abs(r - eps[:steps]).max()) for r in responses) / peak
