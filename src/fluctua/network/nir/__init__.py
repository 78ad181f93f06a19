"""NIR graphs: read as models that can be run and initialised, and written from fluctua's own models."""

from fluctua.network.nir.reading import from_nir
from fluctua.network.nir.writing import to_nir

__all__ = ["from_nir", "to_nir"]
