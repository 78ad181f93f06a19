"""Layers around neurons."""

from fluctua.layers.blocks import OneToOne, ResidualBlock, conv_block, recurrent_conv_block
from fluctua.layers.circuit import Circuit, Recurrent, Synapse
from fluctua.layers.dale import DaleCircuit, DaleError, DaleLayer, SignedLinear, constrain_, keep_signs
from fluctua.layers.fused_sequential import FusedSequential
from fluctua.layers.over_time import OverTime
from fluctua.layers.segments import in_segments

__all__ = [
    "Circuit",
    "DaleCircuit",
    "DaleError",
    "DaleLayer",
    "FusedSequential",
    "OneToOne",
    "OverTime",
    "Recurrent",
    "ResidualBlock",
    "SignedLinear",
    "Synapse",
    "constrain_",
    "conv_block",
    "in_segments",
    "keep_signs",
    "recurrent_conv_block",
]
