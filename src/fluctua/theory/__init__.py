"""The theory: numbers in, numbers out; needs NumPy alone."""

from fluctua.theory.laws import (
    Exponential,
    Family,
    Gamma,
    HalfNormal,
    LogNormal,
    Normal,
    OneSided,
    Uniform,
    WeightLaw,
)
from fluctua.theory.membrane import Drive, Moments, membrane_moments
from fluctua.theory.psp import PspKernel
from fluctua.theory.rates import crossing_rate, xi_for_rate
from fluctua.theory.target import InfeasibleTargetError, Target
from fluctua.theory.weights import Afferent, default_shares, solve

__all__ = [
    "Afferent",
    "Drive",
    "Exponential",
    "Family",
    "Gamma",
    "HalfNormal",
    "InfeasibleTargetError",
    "LogNormal",
    "Moments",
    "Normal",
    "OneSided",
    "PspKernel",
    "Target",
    "Uniform",
    "WeightLaw",
    "crossing_rate",
    "default_shares",
    "membrane_moments",
    "solve",
    "xi_for_rate",
]
