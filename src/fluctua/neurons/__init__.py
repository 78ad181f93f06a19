"""The spiking modules a user builds with."""

from typing import TYPE_CHECKING

from fluctua._deprecated import old_names
from fluctua.neurons.adaptive import AdaptiveLIF
from fluctua.neurons.exc_inh import ExcInhLIF
from fluctua.neurons.heterogeneity import heterogeneous
from fluctua.neurons.li import LI
from fluctua.neurons.lif import LIF
from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike

__all__ = ["LI", "LIF", "AdaptiveLIF", "ArcTan", "ExcInhLIF", "SigmoidDerivative", "SuperSpike", "heterogeneous"]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
