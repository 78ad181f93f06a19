"""Layers around neurons."""

from typing import TYPE_CHECKING

from fluctua._deprecated import old_names
from fluctua.layers.blocks import ResidualBlock
from fluctua.layers.circuit import Recurrent
from fluctua.layers.dale import DaleLayer
from fluctua.layers.fused_sequential import FusedSequential
from fluctua.layers.over_time import OverTime
from fluctua.layers.segments import in_segments

__all__ = ["DaleLayer", "FusedSequential", "OverTime", "Recurrent", "ResidualBlock", "in_segments"]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
