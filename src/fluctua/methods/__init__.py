"""Methods that find weights: ours, the paper's, and the baselines to compare them with."""

from fluctua.methods.components import SilentInputError
from fluctua.methods.initialization import initialize
from fluctua.methods.nir import initialize_nir
from fluctua.methods.poisson import fluctuation_driven_
from fluctua.network.batch import BatchError

__all__ = [
    "BatchError",
    "SilentInputError",
    "fluctuation_driven_",
    "initialize",
    "initialize_nir",
]
