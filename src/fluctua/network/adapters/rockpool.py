"""The facts of rockpool's neurons.

They take sequences `[B, T, N]`, know the time step, emit as many spikes per step as the potential holds thresholds,
subtract these, and carry the state of the first sample over to the next call. A bias within the neuron moves its rest.
Weights, recurrent ones too, are `[in, out]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fluctua.network.adapters.framework import FactsOf, Framework, Sharpness, States, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, Pathway, PopulationSpec, one_step_late
from fluctua.network.run import Layout
from fluctua.neurons.leaky import numbers as _numbers
from fluctua.theory import PspKernel
from fluctua.theory.psp import Array


def lif(module: Any, timing: Timing) -> Neuron | Mapping[str, PopulationSpec]:
    """Synaptic currents, mostly one, that decay in the step of their arrival, before the membrane reads them."""
    if module._has_rec and module.n_synapses > 1:
        raise UnsupportedNeuronError(
            f"{type(module).__name__} of shape {module.shape} has recurrence onto {module.n_synapses} synapses of each "
            "neuron, so one weight feeds several currents with its own spikes: use one synapse, as with shape (N, N)"
        )
    alpha, beta = _numbers(module.alpha), _numbers(module.beta)
    each = [beta] * module.n_synapses if beta.ndim == 0 else beta.T  # of shape [N], or [1] for all neurons
    kernels = tuple(PspKernel.two_poles(b, alpha, b, module.dt) for b in each)
    neuron = _spiking(module, kernels, alpha, timing)
    return {"": PopulationSpec(neuron, module, (0,), (_recurrence(module),))} if module._has_rec else neuron


def lif_neuron(module: Any, timing: Timing) -> Neuron:
    """A neuron without synaptic current."""
    alpha = np.exp(-module.dt / _numbers(module.tau_mem))
    return _spiking(module, (PspKernel.one_pole(1.0, alpha, module.dt),), alpha, timing)


def exp_syn(module: Any, timing: Timing) -> Neuron:
    """A readout that returns its current."""
    beta = np.exp(-module.dt / _numbers(module.tau))
    return Neuron((PspKernel.one_pole(beta, beta, module.dt),), None, note=_note(module))


@dataclass(frozen=True)
class Synapses(Layout):
    """Called with the currents of several synapses in one tensor, those of one neuron side by side.

    Attributes:
        each: number of synapses per neuron.
    """

    each: int = 1

    def currents(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> tuple[Tensor, ...]:
        """`[B, T, N * each]` -> for each synapse `[B, T, N]`."""
        found = super().currents(module, args, kwargs, 1)
        return tuple(split for x in found for split in x.unflatten(-1, (-1, self.each)).unbind(-1))  # type: ignore[no-untyped-call]


def layout(module: Any) -> Layout:
    """Called once with the whole sequence `[B, T, N]`."""
    synapses = getattr(module, "n_synapses", 1)
    return Synapses("second", each=synapses) if synapses > 1 else Layout("second")


_OF_SYNAPSES = frozenset({"tau_syn", "beta", "dash_syn"})  # `[N, synapses]`, here with one synapse


class Populations(Stepping):
    """State in attributes, of one sample: the first of a batch."""

    def names(self, module: Any) -> tuple[str, ...]:
        if getattr(module, "_has_rec", False) or getattr(module, "n_synapses", 1) > 1:
            raise UnsupportedNeuronError(f"{type(module).__name__} has recurrence or several synapses")
        return tuple(name for name in ("vmem", "isyn", "spikes") if name in module.state())

    def options(self, module: Any) -> tuple[str, ...]:
        return ("noise_std",)

    def neurons(self, module: Any) -> int:
        return int(module.size_out)

    def step(self, module: Any, x: Tensor, state: States) -> tuple[Tensor, States]:
        module._buffers.pop("w_rec", None)  # zeros
        for name in _OF_SYNAPSES & module._parameters.keys() | _OF_SYNAPSES & module._buffers.keys():
            holder = module._parameters if name in module._parameters else module._buffers
            holder[name] = holder[name].reshape(-1, 1)
        shaped = (
            part.reshape(getattr(module, name).shape) for name, part in zip(self.names(module), state, strict=True)
        )
        output, after = super().step(module, x, tuple(shaped))
        return output, tuple(part.reshape(x.shape) for part in after)

    def call(self, module: Any, x: Tensor) -> Tensor:
        with _Attached():
            output: Tensor = type(module).forward(module, x.reshape(1, 1, -1))
        return output.reshape(x.shape)

    def constant(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1) if name in _OF_SYNAPSES else tensor

    def kept(self, module: Any, x: Tensor) -> States | None:
        return tuple(part.reshape(-1).expand_as(x) for part in self.held(module))

    def carried(self, module: Any, name: str, part: Tensor) -> Tensor:
        return part[0].detach().reshape(getattr(module, name).shape)

    def watched(self, module: Any) -> str | None:
        return "it records its states (record=True)" if module._record else None


class _Attached(TorchFunctionMode):
    """Keeps the state between the steps of a sequence in the autograd graph, where the module would detach it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.detach else func(*args, **(kwargs or {}))


def sharpness(module: Any) -> Sharpness | None:
    """The width of its window below threshold."""
    window = module.learning_window

    def put(value: float) -> None:
        module.learning_window = torch.full_like(window, value)

    return Sharpness("learning_window", float(window), put)


def reset(module: Any) -> None:
    """To rest, as users do before a trial."""
    module.reset_state()


def _recurrence(module: Any) -> Pathway:
    def current(spikes: Tensor) -> Tensor:
        return one_step_late(spikes.to(module.w_rec) @ module.w_rec)

    return Pathway("", module, "w_rec", ("",), inner=current, rows=1)


def _spiking(module: Any, kernels: tuple[PspKernel, ...], alpha: Array, timing: Timing) -> Neuron:
    rest = _numbers(module.bias) / (1 - alpha)
    if timing.steps is not None:  # the potential starts from zero, not from its rest
        rest = rest * (1 - alpha * (1 - alpha**timing.steps) / ((1 - alpha) * timing.steps))
    return Neuron.spiking(kernels, module.threshold, float(rest.mean()), note=_note(module, rest))


def _note(module: Any, rest: Array | float = 0.0) -> str | None:
    """A note on what the facts leave out."""
    noise, spread = float(module.noise_std), float(np.std(rest))
    notes = [f"the noise that it adds to itself (noise_std = {noise:g})"] if noise else []
    notes += [f"the spread of its resting potentials by their biases (std {spread:.3g})"] if spread > 1e-6 else []
    return "not counted: " + ", ".join(notes) if notes else None


_MODULES = "rockpool.nn.modules.torch"
_EXODUS = "rockpool.nn.modules.sinabs.lif_exodus"
_UNTRIED = (
    "fluctua was not tested with exodus: initialise the same network of LIFTorch and ExpSynTorch, and load its weights"
)

FACTS: Mapping[str, FactsOf] = {
    f"{_MODULES}.lif_torch.LIFTorch": lif,
    f"{_MODULES}.lif_bitshift_torch.LIFBitshiftTorch": lif,
    f"{_MODULES}.ahp_lif_torch.aLIFTorch": lif,
    f"{_MODULES}.lif_neuron_torch.LIFNeuronTorch": lif_neuron,
    f"{_MODULES}.exp_syn_torch.ExpSynTorch": exp_syn,
}

REFUSED: Mapping[str, str] = {
    f"{_MODULES}.rate_torch.RateTorch": "it emits rates, not spikes: use LIFTorch instead",
    **dict.fromkeys((f"{_EXODUS}.LIFExodus", f"{_EXODUS}.LIFMembraneExodus", f"{_EXODUS}.ExpSynExodus"), _UNTRIED),
}

FRAMEWORK = Framework(
    package="rockpool",
    tested="3.1.0",
    facts=FACTS,
    refused=REFUSED,
    timed=True,
    transposed=frozenset({f"{_MODULES}.linear_torch.LinearTorch"}),
    layout=layout,
    reset=reset,
    stepping=Populations(),
    sharpness=sharpness,
)
