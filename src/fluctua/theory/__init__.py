"""The theory: numbers in, numbers out; needs NumPy alone."""

from typing import TYPE_CHECKING

from fluctua._deprecated import old_names
from fluctua.theory.laws import Exponential, Gamma, LogNormal, Normal, Relay
from fluctua.theory.psp import PspKernel
from fluctua.theory.target import Drive, InfeasibleTargetError, Target, crossing_rate, membrane_moments, xi_for_rate
from fluctua.theory.weights import Afferent, solve

__all__ = [
    "Afferent",
    "Drive",
    "Exponential",
    "Gamma",
    "InfeasibleTargetError",
    "LogNormal",
    "Normal",
    "PspKernel",
    "Relay",
    "Target",
    "crossing_rate",
    "membrane_moments",
    "solve",
    "xi_for_rate",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
