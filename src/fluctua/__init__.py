"""fluctua: spiking neural networks in the fluctuation-driven regime, from the first step of training on."""

from typing import TYPE_CHECKING

from fluctua._deprecated import keep_old_paths
from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.explain import Diagnosis as Diagnosis
    from fluctua.explain import Monitor as Monitor
    from fluctua.explain import diagnose as diagnose
    from fluctua.fusion import fuse as fuse
    from fluctua.methods import fluctuation_driven_ as fluctuation_driven_
    from fluctua.methods import initialize as initialize
    from fluctua.methods import measured_ as measured_
    from fluctua.rescaling import rescale as rescale
    from fluctua.state import Report as Report
    from fluctua.state import inspect as inspect
    from fluctua.theory import PspKernel as PspKernel
    from fluctua.theory import Target as Target
    from fluctua.timeloop import engine as engine

__version__ = "0.2.0.dev0"

__getattr__, __dir__, __all__ = lazy(
    __name__, modules="explain fusion hardware homeostasis layers methods network neurons spikes state theory"
)
__all__ += ["__version__"]
keep_old_paths()
