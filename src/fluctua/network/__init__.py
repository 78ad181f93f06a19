"""A model on a batch: how it runs, its populations and pathways in order, and NIR graphs."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy
from fluctua.network.errors import WiringError
from fluctua.network.network import Network

if TYPE_CHECKING:
    from fluctua.network.nir import from_nir, to_nir
    from fluctua.network.probe import ProbedNeuron

__all__ = ["Network", "ProbedNeuron", "WiringError", "from_nir", "to_nir"]

__getattr__, __dir__ = lazy(
    __name__,
    {"ProbedNeuron": "fluctua.network.probe", "from_nir": "fluctua.network.nir", "to_nir": "fluctua.network.nir"},
)
