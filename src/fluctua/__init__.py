"""fluctua: spiking neural networks in the fluctuation-driven regime, from the first step of training on."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.diagnostics import Report, inspect
    from fluctua.initialization import (
        Grid,
        fluctuation_driven_,
        initialize,
        initialize_nir,
        prime,
        quantize,
        scale_synapses,
    )
    from fluctua.layers import in_segments
    from fluctua.theory import PspKernel, Target
    from fluctua.timeloop import engine
    from fluctua.wiring import ProbedNeuron

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
        "Grid": "fluctua.initialization",
        "ProbedNeuron": "fluctua.wiring",
        "PspKernel": "fluctua.theory",
        "Report": "fluctua.diagnostics",
        "Target": "fluctua.theory",
        "engine": "fluctua.timeloop",
        "fluctuation_driven_": "fluctua.initialization",
        "in_segments": "fluctua.layers",
        "initialize": "fluctua.initialization",
        "initialize_nir": "fluctua.initialization",
        "inspect": "fluctua.diagnostics",
        "prime": "fluctua.initialization",
        "quantize": "fluctua.initialization",
        "scale_synapses": "fluctua.initialization",
    },
)
