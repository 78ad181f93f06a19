"""Layers around neurons."""

from fluctua.layers.blocks import OneToOne, ResidualBlock, conv_block, recurrent_conv_block
from fluctua.layers.chain import Chain
from fluctua.layers.circuit import Circuit, Recurrent, Synapse
from fluctua.layers.dale import DaleCircuit, DaleError, DaleLayer, SignedLinear, constrain_, keep_signs
from fluctua.layers.event_input import spike_batch
from fluctua.layers.over_time import OverTime
from fluctua.layers.segments import in_segments
from fluctua.timeloop.events import SpikeBatch

__all__ = [
    "Chain",
    "Circuit",
    "DaleCircuit",
    "DaleError",
    "DaleLayer",
    "OneToOne",
    "OverTime",
    "Recurrent",
    "ResidualBlock",
    "SignedLinear",
    "SpikeBatch",
    "Synapse",
    "constrain_",
    "conv_block",
    "in_segments",
    "keep_signs",
    "recurrent_conv_block",
    "spike_batch",
]
