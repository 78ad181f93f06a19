"""The loops over time behind every neuron: one contract, several engines."""

from typing import TYPE_CHECKING

from fluctua._deprecated import old_names
from fluctua.timeloop.engines import engine

__all__ = ["engine"]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
