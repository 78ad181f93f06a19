"""What a network is to the theory: populations of neurons and the pathways into them. Facts, no behaviour."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.theory import PspKernel

Array = NDArray[np.float64]

INPUT = "input"  # name of the source of what no population of the network has sent


@dataclass(frozen=True, eq=False)
class Neuron:
    """The facts of one neuron module.

    Attributes:
        kernel: its PSP kernel, from its live parameters.
        threshold: `theta` (mean over the population where neurons differ), or None for a readout.
    """

    kernel: PspKernel
    threshold: float | None


@dataclass(frozen=True, eq=False)
class Pathway:
    """One weight tensor on its way into a population.

    Attributes:
        name: of the weight, as in `model.named_parameters()`.
        synapse: the module that owns the weight.
        parameter: attribute of the weight in that module.
        sources: names of the presynaptic populations; `("input",)` where the data come straight in.
        via: operations between the synapse's output and the neuron's input, as autograd names them.
        norm: the normalisation layer in between whose affine parameters set the scale of the current, if any.
        left_alone: why an initialiser must not write the weight (frozen, shared, parametrised), or None.
        through: modules with weights that the signal passes on its way from the sources to the synapse. They feed no
            population of their own.
    """

    name: str
    synapse: nn.Module
    parameter: str
    sources: tuple[str, ...]
    via: tuple[str, ...] = ()
    norm: nn.Module | None = None
    left_alone: str | None = None
    through: tuple[nn.Module, ...] = ()

    @property
    def weight(self) -> Tensor:
        """The weight tensor, one row per output unit."""
        weight: Tensor = getattr(self.synapse, self.parameter)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias that goes with the weight."""
        bias: Tensor | None = getattr(self.synapse, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def fan_in(self) -> int:
        """Afferents of one neuron: the entries of one row of the weight (convolution: away from the border)."""
        if isinstance(self.synapse, nn.modules.conv._ConvTransposeNd):  # weight [in, out / groups, *kernel]
            contacts = len(self.weight) // self.synapse.groups * self.weight[0, 0].numel()
            return round(contacts / math.prod(self.synapse.stride))
        return self.weight[0].numel()


@dataclass(frozen=True, eq=False)
class Population:
    """The neurons of one module, with everything that feeds them.

    Attributes:
        name: of the module, as in `model.named_modules()`.
        module: the neuron module.
        neuron: its facts.
        pathways: the weights that feed it.
        unweighted: populations whose spikes reach it without passing a weight (identity skip connections).
    """

    name: str
    module: nn.Module
    neuron: Neuron
    pathways: tuple[Pathway, ...]
    unweighted: tuple[str, ...] = ()
