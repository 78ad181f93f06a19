"""Methods that find weights: ours, the paper's, and the baselines to compare them with."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.methods.baselines.classic import Kaiming, Xavier
    from fluctua.methods.baselines.lsuv import LSUV
    from fluctua.methods.baselines.spikeinit import SpikeInit
    from fluctua.methods.baselines.tdbn import TdBN
    from fluctua.methods.measured import Measured
    from fluctua.methods.method import initialize
    from fluctua.methods.poisson import Poisson, fluctuation_driven_
    from fluctua.methods.tensors import measured_

__all__ = [
    "LSUV",
    "Kaiming",
    "Measured",
    "Poisson",
    "SpikeInit",
    "TdBN",
    "Xavier",
    "fluctuation_driven_",
    "initialize",
    "measured_",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Kaiming": "fluctua.methods.baselines.classic",
        "LSUV": "fluctua.methods.baselines.lsuv",
        "SpikeInit": "fluctua.methods.baselines.spikeinit",
        "TdBN": "fluctua.methods.baselines.tdbn",
        "Xavier": "fluctua.methods.baselines.classic",
        "Measured": "fluctua.methods.measured",
        "Poisson": "fluctua.methods.poisson",
        "fluctuation_driven_": "fluctua.methods.poisson",
        "initialize": "fluctua.methods.method",
        "measured_": "fluctua.methods.tensors",
    },
)
