"""Model and batch -> populations and pathways."""

from fluctua.wiring.graph import INPUT, Neuron, Pathway, Population
from fluctua.wiring.potential import free_potential
from fluctua.wiring.trace import WiringError, trace

__all__ = ["INPUT", "Neuron", "Pathway", "Population", "WiringError", "free_potential", "trace"]
