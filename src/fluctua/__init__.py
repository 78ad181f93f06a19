"""fluctua: spiking neural networks in the fluctuation-driven regime, from the first step of training on."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.diagnostics import Report, inspect
    from fluctua.initialization import fluctuation_driven_, initialize, prime, scale_synapses
    from fluctua.theory import PspKernel, Target
    from fluctua.timeloop import engine

__version__ = "0.1.0"

__all__ = [
    "PspKernel",
    "Report",
    "Target",
    "__version__",
    "engine",
    "fluctuation_driven_",
    "initialize",
    "inspect",
    "prime",
    "scale_synapses",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "PspKernel": "fluctua.theory",
        "Report": "fluctua.diagnostics",
        "Target": "fluctua.theory",
        "engine": "fluctua.timeloop",
        "fluctuation_driven_": "fluctua.initialization",
        "initialize": "fluctua.initialization",
        "inspect": "fluctua.diagnostics",
        "prime": "fluctua.initialization",
        "scale_synapses": "fluctua.initialization",
    },
)
