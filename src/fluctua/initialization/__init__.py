"""The method: networks brought into the fluctuation-driven regime."""

from fluctua.initialization.batch import BatchError
from fluctua.initialization.components import SilentInputError
from fluctua.initialization.fluctuation import initialize
from fluctua.initialization.poisson import fluctuation_driven_

__all__ = ["BatchError", "SilentInputError", "fluctuation_driven_", "initialize"]
