"""Layers around neurons."""

from fluctua.layers.circuit import Circuit, Recurrent, Synapse
from fluctua.layers.dale import DaleCircuit, DaleError, DaleLayer, SignedLinear, constrain_, keep_signs
from fluctua.layers.over_time import OverTime

__all__ = [
    "Circuit",
    "DaleCircuit",
    "DaleError",
    "DaleLayer",
    "OverTime",
    "Recurrent",
    "SignedLinear",
    "Synapse",
    "constrain_",
    "keep_signs",
]
