"""The facts of fluctua's own neurons."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fluctua.network.adapters.framework import FactsOf, Framework, Sharpness, Timing
from fluctua.network.facts import Neuron, Pathway, PopulationSpec
from fluctua.neurons.leaky import numbers
from fluctua.neurons.surrogates import Surrogate
from fluctua.theory.psp import TwoStateKernel

if TYPE_CHECKING:
    from fluctua.layers.circuit import Circuit
    from fluctua.neurons import AdaptiveLIF
    from fluctua.neurons.current_based import CurrentBased
    from fluctua.neurons.own_step import StepNeuron


def adaptive_lif(module: "AdaptiveLIF", timing: Timing) -> Neuron:
    """Before its first spike: the kernel has the adaptation that follows the potential, not that driven by spikes."""
    from fluctua.network.linear import linear_neuron

    if module.coupling is None or not module.coupling.any():
        return Neuron.in_closed_form(module, timing)
    dynamics = module.dynamics()
    return linear_neuron(dynamics, [0.0] * dynamics.states, replace(timing, dt=module.dt), module.threshold)


def current_based(module: "CurrentBased", timing: Timing) -> Neuron:
    """Responds in the step of its input; a perfect integrator if nothing decays."""
    a, gain = numbers(module.decay_mem), numbers(module.gain)
    b = 0.0 if module.decay_syn is None else numbers(module.decay_syn)
    steps = timing.trial if (a == 1).any() else None
    kernel = TwoStateKernel.make(module.dt, a=a, b=b, coupling=gain * b, jump_mem=gain, jump_syn=1.0, steps=steps)
    return Neuron.spiking((kernel,), module.threshold, float(module.leak.mean()))


def step_neuron(module: "StepNeuron", timing: Timing) -> Neuron:
    """A neuron that the user wrote as one step."""
    from fluctua.network.linear import linear_neuron

    rest, threshold = module.facts()
    return linear_neuron(module.dynamics(), rest, replace(timing, dt=module.dt), threshold)


def circuit(module: "Circuit", timing: Timing) -> Mapping[str, PopulationSpec]:
    """Several populations, or one with recurrence."""
    specs = {}
    for name, cell in module.cells.items():
        neuron = FACTS[f"{type(cell).__module__}.{type(cell).__qualname__}"](cell, timing)
        assert isinstance(neuron, Neuron), "circuits are not nested"
        arguments = tuple(
            module.inputs.index((name, port)) if (name, port) in module.inputs else None
            for port in range(len(neuron.kernels))
        )
        arriving = [s for s in module.synapses if s.target == name]
        synapses = tuple(Pathway("", s.module, "", (s.source,), port=s.port, inner=s.current) for s in arriving)
        specs[name] = PopulationSpec(neuron, module.spikes[name], arguments, synapses)
    return specs


def sharpness(module: Any) -> Sharpness | None:
    """`beta` of its surrogate; none is known in a neuron that the user wrote as one step."""
    surrogate = getattr(module, "surrogate", None)
    if not isinstance(surrogate, Surrogate):
        return None
    return Sharpness("beta", surrogate.beta, lambda value: setattr(module, "surrogate", replace(surrogate, beta=value)))


FACTS: Mapping[str, FactsOf] = {
    "fluctua.layers.circuit.Circuit": circuit,
    "fluctua.neurons.adaptive.AdaptiveLIF": adaptive_lif,
    "fluctua.neurons.current_based.CurrentBased": current_based,
    "fluctua.neurons.exc_inh.ExcInhLIF": Neuron.in_closed_form,
    "fluctua.neurons.leaky.LIF": Neuron.in_closed_form,
    "fluctua.neurons.leaky.LI": Neuron.in_closed_form,
    "fluctua.neurons.own_step.StepNeuron": step_neuron,
}

FRAMEWORK = Framework(package="fluctua", tested="", facts=FACTS, timed=True, sharpness=sharpness)
