"""The spiking modules that users build networks from."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.neurons.adaptive import AdaptiveLIF as AdaptiveLIF
    from fluctua.neurons.exc_inh import ExcInhLIF as ExcInhLIF
    from fluctua.neurons.heterogeneity import heterogeneous as heterogeneous
    from fluctua.neurons.leaky import LI as LI
    from fluctua.neurons.leaky import LIF as LIF
    from fluctua.neurons.own_step import from_step as from_step
    from fluctua.neurons.surrogates import ArcTan as ArcTan
    from fluctua.neurons.surrogates import SigmoidDerivative as SigmoidDerivative
    from fluctua.neurons.surrogates import SuperSpike as SuperSpike
    from fluctua.neurons.surrogates import spike as spike

__getattr__, __dir__, __all__ = lazy(__name__)
