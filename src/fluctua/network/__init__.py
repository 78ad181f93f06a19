"""Model and batch -> populations and pathways."""

from fluctua.network.errors import WiringError
from fluctua.network.facts import INPUT, InnerSynapse, Member, Neuron, Pathway, Population, UnsupportedNeuronError
from fluctua.network.potential import free_potential, population_currents, potential_of
from fluctua.network.probe import ProbedNeuron
from fluctua.network.trace import trace

__all__ = [
    "INPUT",
    "InnerSynapse",
    "Member",
    "Neuron",
    "Pathway",
    "Population",
    "ProbedNeuron",
    "UnsupportedNeuronError",
    "WiringError",
    "free_potential",
    "population_currents",
    "potential_of",
    "trace",
]
