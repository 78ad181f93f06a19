"""Homeostatic plasticity: populations brought to their target rates, after any initialiser."""

from fluctua.homeostasis.bounds import ActivityBound
from fluctua.homeostasis.priming import prime
from fluctua.homeostasis.scaling import scale_synapses

__all__ = ["ActivityBound", "prime", "scale_synapses"]
