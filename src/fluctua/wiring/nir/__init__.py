"""NIR graphs: read as models that can be run and initialised, written from own ones."""

from fluctua.wiring.nir.conventions import CONVENTIONS
from fluctua.wiring.nir.model import NirModel
from fluctua.wiring.nir.reading import from_nir
from fluctua.wiring.nir.writing import to_nir

__all__ = ["CONVENTIONS", "NirModel", "from_nir", "to_nir"]
