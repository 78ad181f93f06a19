"""fluctua: spiking neural networks in the fluctuation-driven regime, from the first step of training on."""

from typing import TYPE_CHECKING

from fluctua._deprecated import keep_old_paths
from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.hardware import Grid, quantize
    from fluctua.homeostasis import prime, scale_synapses
    from fluctua.layers import in_segments
    from fluctua.methods import fluctuation_driven_, initialize, initialize_nir
    from fluctua.network import ProbedNeuron
    from fluctua.state import Report, inspect
    from fluctua.theory import PspKernel, Target
    from fluctua.timeloop import engine

__version__ = "0.1.0"

__all__ = [
    "Grid",
    "ProbedNeuron",
    "PspKernel",
    "Report",
    "Target",
    "__version__",
    "engine",
    "fluctuation_driven_",
    "in_segments",
    "initialize",
    "initialize_nir",
    "inspect",
    "prime",
    "quantize",
    "scale_synapses",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Grid": "fluctua.hardware",
        "ProbedNeuron": "fluctua.network",
        "PspKernel": "fluctua.theory",
        "Report": "fluctua.state",
        "Target": "fluctua.theory",
        "engine": "fluctua.timeloop",
        "fluctuation_driven_": "fluctua.methods",
        "in_segments": "fluctua.layers",
        "initialize": "fluctua.methods",
        "initialize_nir": "fluctua.methods",
        "inspect": "fluctua.state",
        "prime": "fluctua.homeostasis",
        "quantize": "fluctua.hardware",
        "scale_synapses": "fluctua.homeostasis",
    },
)

keep_old_paths()
