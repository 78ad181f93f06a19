"""The spiking modules a user builds with."""

from fluctua.neurons.leaky import LeakyNeuron
from fluctua.neurons.li import LI
from fluctua.neurons.lif import LIF
from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike, Surrogate

__all__ = ["LI", "LIF", "ArcTan", "LeakyNeuron", "SigmoidDerivative", "SuperSpike", "Surrogate"]
