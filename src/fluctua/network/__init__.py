"""A model on a batch: how it runs, its populations and pathways in order, and NIR graphs."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy
from fluctua.network.errors import WiringError
from fluctua.network.network import Network

if TYPE_CHECKING:
    from fluctua.network.nir import from_nir as from_nir
    from fluctua.network.nir import to_nir as to_nir
    from fluctua.network.probe import ProbedNeuron as ProbedNeuron

__getattr__, __dir__, __all__ = lazy(__name__)
__all__ += ["Network", "WiringError"]
