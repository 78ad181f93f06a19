"""The spiking modules that users build networks from."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.neurons.adaptive import AdaptiveLIF
    from fluctua.neurons.exc_inh import ExcInhLIF
    from fluctua.neurons.heterogeneity import heterogeneous
    from fluctua.neurons.leaky import LI, LIF
    from fluctua.neurons.own_step import from_step
    from fluctua.neurons.surrogates import ArcTan, SigmoidDerivative, SuperSpike, spike

__all__ = [
    "LI",
    "LIF",
    "AdaptiveLIF",
    "ArcTan",
    "ExcInhLIF",
    "SigmoidDerivative",
    "SuperSpike",
    "from_step",
    "heterogeneous",
    "spike",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AdaptiveLIF": "fluctua.neurons.adaptive",
        "ArcTan": "fluctua.neurons.surrogates",
        "ExcInhLIF": "fluctua.neurons.exc_inh",
        "LI": "fluctua.neurons.leaky",
        "LIF": "fluctua.neurons.leaky",
        "SigmoidDerivative": "fluctua.neurons.surrogates",
        "SuperSpike": "fluctua.neurons.surrogates",
        "from_step": "fluctua.neurons.own_step",
        "heterogeneous": "fluctua.neurons.heterogeneity",
        "spike": "fluctua.neurons.surrogates",
    },
)
