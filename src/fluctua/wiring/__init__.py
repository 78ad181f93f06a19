"""Model and batch -> populations and pathways."""

from fluctua.wiring.errors import WiringError
from fluctua.wiring.graph import INPUT, InnerSynapse, Member, Neuron, Pathway, Population, UnsupportedNeuronError
from fluctua.wiring.potential import free_potential, population_currents, potential_of
from fluctua.wiring.probe import ProbedNeuron
from fluctua.wiring.trace import trace

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
