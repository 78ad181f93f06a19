"""The method: networks brought into the fluctuation-driven regime."""

from fluctua.initialization.batch import BatchError
from fluctua.initialization.components import SilentInputError
from fluctua.initialization.fluctuation import initialize
from fluctua.initialization.homeostasis import Refinement
from fluctua.initialization.poisson import fluctuation_driven_
from fluctua.initialization.priming import prime
from fluctua.initialization.scaling import scale_synapses

__all__ = [
    "BatchError",
    "Refinement",
    "SilentInputError",
    "fluctuation_driven_",
    "initialize",
    "prime",
    "scale_synapses",
]
