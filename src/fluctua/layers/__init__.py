"""Layers around neurons."""

from typing import TYPE_CHECKING

from fluctua._deprecated import old_names
from fluctua.layers.blocks import ResidualBlock
from fluctua.layers.circuit import Circuit, Recurrent, Synapse
from fluctua.layers.dale import DaleLayer, keep_signs
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
    "Synapse",
    "in_segments",
    "keep_signs",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
