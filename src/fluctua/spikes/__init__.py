"""Sparse spikes as bits."""

from fluctua.spikes.batch import SpikeBatch

__all__ = ["SpikeBatch"]
