"""The facts of fluctua's own neurons."""

from fluctua.neurons import LI, LIF
from fluctua.neurons.leaky import LeakyNeuron
from fluctua.theory import PspKernel
from fluctua.wiring.adapters.facts import Facts
from fluctua.wiring.graph import Neuron


def lif(module: LIF) -> Neuron:
    """Spikes above its threshold."""
    return Neuron(_kernel(module), float(module.threshold.mean()))


def li(module: LI) -> Neuron:
    """Never spikes."""
    return Neuron(_kernel(module), None)


def _kernel(module: LeakyNeuron) -> PspKernel:
    tau_mem = module.tau_mem.detach().double().cpu().numpy()
    if module.tau_syn is None:
        return PspKernel.delta(tau_mem, module.dt)
    return PspKernel.exponential(tau_mem, module.tau_syn.detach().double().cpu().numpy(), module.dt)


FACTS: Facts = {
    "fluctua.neurons.lif.LIF": lif,
    "fluctua.neurons.li.LI": li,
}
