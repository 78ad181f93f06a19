"""The facts of stork's neuron groups.

Time constants are in seconds, and become decays per step when the model is configured. A connection adds its current
to a state of the group, `states["input"]`, and a step of the group consumes it: there are no arguments and no results.
A group's `evolve` calls its `forward` past torch's hooks, so one that does not replaces it while a model is observed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import FactsOf, Framework, State, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, numbers_of
from fluctua.network.run import Layout
from fluctua.theory import PspKernel
from fluctua.theory.psp import Array
from fluctua.theory.state_space import StateSpaceKernel


@dataclass(frozen=True)
class GroupLayout(Layout):
    """Currents arrive in states of the group, and spikes leave in its attribute `out`.

    Attributes:
        targets: names of the states.
    """

    time: Any = "step"
    targets: tuple[str, ...] = ("input",)

    def currents(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> tuple[Tensor, ...]:
        return tuple(module.states[target] for target in self.targets[:most])

    def answer(self, module: Any, output: Any, spikes: Tensor) -> Any:
        module.out = module.states["out"] = spikes
        return spikes


def lif(module: Any, timing: Timing) -> Neuron:
    """A spike acts one step after its arrival, and the threshold reads it one step later; the threshold is fixed at 1.

    Adaptation follows the neuron's own spikes, so it is no part of the free potential.
    """
    return Neuron((_kernel(module, _decay(module, "syn")),), 1.0)


def exc_inh_lif(module: Any, timing: Timing) -> Neuron:
    """An excitatory and an inhibitory current."""
    excitation = _kernel(module, _decay(module, "exc"))
    return Neuron((excitation, _kernel(module, _decay(module, "inh")).scaled(-1)), float(module.thr))


def exc2_inh_lif(module: Any, timing: Timing) -> Neuron:
    """A fast excitatory current that drives a slow one; the membrane takes the mean of both."""
    return Neuron((_two_currents(module), _kernel(module, _decay(module, "gaba")).scaled(-1)), float(module.thr))


def readout(module: Any, timing: Timing) -> Neuron:
    """Returns its potential after the step."""
    return Neuron((_kernel(module, _decay(module, "syn"), delay=1),), None)


def layout(module: Any) -> Layout:
    """One step per call."""
    return GroupLayout(targets=("exc", "inh") if module.default_target == "exc" else ("input",))


def reset(module: Any) -> None:
    """To rest, if the model is configured; `step` repeats it for its number of samples."""
    if hasattr(module, "nb_steps"):
        module.reset_state()


def prepare(module: Any) -> None:
    """Route a group's steps through torch's hooks, and return its spikes."""
    forward = module.forward

    def returning() -> Any:
        answered = forward()
        return module.out if answered is None else answered

    def evolve() -> None:
        module.out = nn.Module.__call__(module)
        module.set_state_tensor("out", module.out)
        if module.dropout is not None:
            module.out = module.dropout(module.out)
        for key in module.store_state_sequences:
            module.stored_sequences_[key].append(module.states[key])

    vars(module).update(forward=returning, evolve=evolve)


def step(model: Any, x: Tensor, state: State) -> tuple[Any, State]:
    """One round of a `RecurrentSpikingModel`, which has no `forward` and otherwise only runs whole trials."""
    if state is None:
        model.reset_states(len(x))
    model.input_group.feed_data(x.unsqueeze(1))
    model.input_group.clk = 0
    model.evolve_all()
    model.propagate_all()
    model.execute_all()
    return model.output_group.states["out"], "running"


def _check(module: Any) -> None:
    if not hasattr(module, "time_step"):
        raise UnsupportedNeuronError(
            f"the group {module.name} cannot be initialised before it has a time step: call model.configure(...) first"
        )
    if any(connection.constraints for connection in getattr(module, "afferents", ())):
        raise UnsupportedNeuronError(
            f"the group {module.name} cannot be initialised while its weights are constrained (Dale's law): use "
            "stork's own initialiser of DalianLayer, or build the layer from fluctua.layers.circuit.Circuit"
        )


def _kernel(module: Any, synapse: Array, delay: int = 2) -> PspKernel:
    a = _decay(module, "mem")
    return PspKernel.two_poles(1 - a, a, synapse, module.time_step, delay=delay)


def _decay(module: Any, of: str) -> Array:
    """Decay per step of the membrane ("mem") or a current; if it is learnt, from the present parameter."""
    _check(module)
    if getattr(module, "learn_timescales", False):
        tau = 2 * getattr(module, f"tau_{of}") * torch.sigmoid(getattr(module, f"{of}_param"))
        return numbers_of(torch.exp(-module.time_step / tau))
    return numbers_of(getattr(module, f"dcy_{of}"))


def _two_currents(module: Any) -> PspKernel:
    m, fast, slow = np.broadcast_arrays(*(_decay(module, of) for of in ("mem", "ampa", "nmda")))
    no, one, half = np.zeros_like(m), np.ones_like(m), (1 - m) / 2
    rows = [one, no, no, no], [m, half, half, no], [no, slow, 1 - slow, no], [no, no, fast, one]
    return StateSpaceKernel(dt=module.time_step, matrix=np.moveaxis(np.array(rows), (0, 1), (-2, -1)))


_LIF = "stork.nodes.lif"

FACTS: Mapping[str, FactsOf] = {
    f"{_LIF}.base.LIFGroup": lif,
    f"{_LIF}.adaptive.base.AdaptiveLIFGroup": lif,
    f"{_LIF}.adaptive.adaptive_learn.AdaptLearnLIFGroup": lif,
    f"{_LIF}.exc_inh.ExcInhLIFGroup": exc_inh_lif,
    f"{_LIF}.exc_inh.ExcInhAdaptiveLIFGroup": exc_inh_lif,
    f"{_LIF}.exc_inh.Exc2InhLIFGroup": exc2_inh_lif,
    "stork.nodes.readout.ReadoutGroup": readout,
}

FRAMEWORK = Framework(
    package="stork", tested="0.1.0", facts=FACTS, timed=True, layout=layout, reset=reset, step=step, prepare=prepare
)
