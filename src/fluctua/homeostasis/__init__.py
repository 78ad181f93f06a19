"""Homeostatic plasticity: populations brought to the rates at which they should fire, after any initialiser."""

from fluctua.homeostasis.bounds import ActivityBound, paper_bounds
from fluctua.homeostasis.optimizers import SMORMS3, make_optimizer
from fluctua.homeostasis.priming import prime
from fluctua.homeostasis.refinement import Refinement
from fluctua.homeostasis.scaling import scale_synapses

__all__ = ["SMORMS3", "ActivityBound", "Refinement", "make_optimizer", "paper_bounds", "prime", "scale_synapses"]
