"""The spiking modules a user builds with."""

from typing import TYPE_CHECKING

from fluctua._lazy import renamed
from fluctua.neurons.adaptive import AdaptiveLIF
from fluctua.neurons.exc_inh import ExcInhLIF
from fluctua.neurons.heterogeneity import heterogeneous
from fluctua.neurons.li import LI
from fluctua.neurons.lif import LIF
from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike

__all__ = ["LI", "LIF", "AdaptiveLIF", "ArcTan", "ExcInhLIF", "SigmoidDerivative", "SuperSpike", "heterogeneous"]

if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__,
        {
            "LeakyNeuron": "fluctua.neurons.leaky.LeakyNeuron",
            "Surrogate": "fluctua.timeloop.surrogates.Surrogate",
        },
    )
