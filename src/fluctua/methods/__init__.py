"""Methods that find weights: ours, the paper's, and the baselines to compare them with."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.methods.baselines.classic import LSUV as LSUV
    from fluctua.methods.baselines.classic import Kaiming as Kaiming
    from fluctua.methods.baselines.classic import Xavier as Xavier
    from fluctua.methods.baselines.spikeinit import SpikeInit as SpikeInit
    from fluctua.methods.baselines.tdbn import TdBN as TdBN
    from fluctua.methods.measured import Measured as Measured
    from fluctua.methods.method import initialize as initialize
    from fluctua.methods.poisson import Poisson as Poisson
    from fluctua.methods.poisson import fluctuation_driven_ as fluctuation_driven_
    from fluctua.methods.tensors import measured_ as measured_

__getattr__, __dir__, __all__ = lazy(__name__)
