"""Sparse spikes, one bit for each unit, sample and step, and the kernels that walk through them."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.spikes.batch import SpikeBatch as SpikeBatch

__getattr__, __dir__, __all__ = lazy(__name__)
