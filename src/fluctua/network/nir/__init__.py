"""NIR graphs: read as models that can be run and initialised, written from own ones."""

from fluctua.network.nir.reading import from_nir
from fluctua.network.nir.writing import to_nir

__all__ = ["from_nir", "to_nir"]
