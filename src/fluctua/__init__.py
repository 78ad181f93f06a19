"""fluctua: spiking neural networks in the fluctuation-driven regime, from the first step of training on."""

from typing import TYPE_CHECKING

from fluctua._deprecated import keep_old_paths
from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.explain import Diagnosis, Monitor, diagnose
    from fluctua.fusion import fuse
    from fluctua.methods import fluctuation_driven_, initialize, measured_
    from fluctua.rescaling import rescale
    from fluctua.state import Report, inspect
    from fluctua.theory import PspKernel, Target
    from fluctua.timeloop import engine

__version__ = "0.2.0.dev0"

__all__ = [
    "Diagnosis",
    "Monitor",
    "PspKernel",
    "Report",
    "Target",
    "__version__",
    "diagnose",
    "engine",
    "fluctuation_driven_",
    "fuse",
    "initialize",
    "inspect",
    "measured_",
    "rescale",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Diagnosis": "fluctua.explain",
        "Monitor": "fluctua.explain",
        "PspKernel": "fluctua.theory",
        "diagnose": "fluctua.explain",
        "Report": "fluctua.state",
        "Target": "fluctua.theory",
        "engine": "fluctua.timeloop",
        "fluctuation_driven_": "fluctua.methods",
        "fuse": "fluctua.fusion",
        "initialize": "fluctua.methods",
        "inspect": "fluctua.state",
        "measured_": "fluctua.methods",
        "rescale": "fluctua.rescaling",
    },
    modules=(
        "explain",
        "fusion",
        "hardware",
        "homeostasis",
        "layers",
        "methods",
        "network",
        "neurons",
        "spikes",
        "state",
        "theory",
    ),
)
keep_old_paths()
