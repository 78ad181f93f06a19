"""fluctua: spiking neural networks in the fluctuation-driven regime, from the first step of training on."""

from typing import TYPE_CHECKING

from fluctua._deprecated import keep_old_paths
from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.methods import fluctuation_driven_, initialize, measured_
    from fluctua.state import Report, inspect
    from fluctua.theory import PspKernel, Target
    from fluctua.timeloop import engine

__version__ = "0.2.0.dev0"

__all__ = [
    "PspKernel",
    "Report",
    "Target",
    "__version__",
    "engine",
    "fluctuation_driven_",
    "initialize",
    "inspect",
    "measured_",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "PspKernel": "fluctua.theory",
        "Report": "fluctua.state",
        "Target": "fluctua.theory",
        "engine": "fluctua.timeloop",
        "fluctuation_driven_": "fluctua.methods",
        "initialize": "fluctua.methods",
        "inspect": "fluctua.state",
        "measured_": "fluctua.methods",
    },
    modules=("hardware", "homeostasis", "layers", "methods", "network", "neurons", "spikes", "state", "theory"),
)
keep_old_paths()
