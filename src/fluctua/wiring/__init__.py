"""Model and batch -> populations and pathways."""

from fluctua.wiring.graph import INPUT, InnerSynapse, Member, Neuron, Pathway, Population
from fluctua.wiring.potential import free_potential, population_currents, potential_of
from fluctua.wiring.trace import WiringError, trace

__all__ = [
    "INPUT",
    "InnerSynapse",
    "Member",
    "Neuron",
    "Pathway",
    "Population",
    "WiringError",
    "free_potential",
    "population_currents",
    "potential_of",
    "trace",
]
