"""The theory: numbers in, numbers out; needs NumPy alone."""

from fluctua.theory.membrane import Drive, Moments, membrane_moments
from fluctua.theory.psp import PspKernel
from fluctua.theory.rates import crossing_rate, xi_for_rate
from fluctua.theory.target import InfeasibleTargetError, Target
from fluctua.theory.weights import Afferent, Normal, WeightLaw, solve

__all__ = [
    "Afferent",
    "Drive",
    "InfeasibleTargetError",
    "Moments",
    "Normal",
    "PspKernel",
    "Target",
    "WeightLaw",
    "crossing_rate",
    "membrane_moments",
    "solve",
    "xi_for_rate",
]
