"""The method: networks brought into the fluctuation-driven regime."""

from fluctua.initialization.batch import BatchError
from fluctua.initialization.components import SilentInputError
from fluctua.initialization.fluctuation import initialize
from fluctua.initialization.homeostasis import Refinement
from fluctua.initialization.nir import initialize_nir
from fluctua.initialization.poisson import fluctuation_driven_
from fluctua.initialization.priming import prime
from fluctua.initialization.quantization import Grid, quantize
from fluctua.initialization.scaling import scale_synapses

__all__ = [
    "BatchError",
    "Grid",
    "Refinement",
    "SilentInputError",
    "fluctuation_driven_",
    "initialize",
    "initialize_nir",
    "prime",
    "quantize",
    "scale_synapses",
]
