"""Sparse spikes as bits: one for each unit of a batch and step, and the kernels that walk through them."""

from fluctua.spikes.batch import SpikeBatch

__all__ = ["SpikeBatch"]
