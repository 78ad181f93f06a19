"""Layers around neurons."""

from typing import TYPE_CHECKING

from fluctua._lazy import renamed
from fluctua.layers.blocks import ResidualBlock, conv_block, recurrent_conv_block
from fluctua.layers.circuit import Circuit, Recurrent, Synapse
from fluctua.layers.dale import DaleLayer, SignedLinear, keep_signs
from fluctua.layers.fused_sequential import FusedSequential
from fluctua.layers.over_time import OverTime
from fluctua.layers.segments import in_segments

__all__ = [
    "Circuit",
    "DaleLayer",
    "FusedSequential",
    "OverTime",
    "Recurrent",
    "ResidualBlock",
    "SignedLinear",
    "Synapse",
    "conv_block",
    "in_segments",
    "keep_signs",
    "recurrent_conv_block",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__,
        {
            "Chain": "fluctua.layers.FusedSequential",
            "DaleCircuit": "fluctua.layers.dale.DaleCircuit",
            "DaleError": "fluctua.layers.dale.DaleError",
            "OneToOne": "fluctua.layers.blocks.OneToOne",
            "SpikeBatch": "fluctua.spikes.SpikeBatch",
            "constrain_": "fluctua.layers.dale.constrain_",
        },
    )
