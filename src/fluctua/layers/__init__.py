"""Layers around neurons."""

from fluctua.layers.over_time import OverTime

__all__ = ["OverTime"]
