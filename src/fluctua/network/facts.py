"""What a network is to the theory: populations of neurons and the pathways into them. Facts, no behaviour."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network.layout import Layout
from fluctua.network.preserve import preserved
from fluctua.theory import PspKernel
from fluctua.theory.laws import Family

Array = NDArray[np.float64]

INPUT = "input"  # name of the source of what no population of the network has sent


class UnsupportedNeuronError(ValueError):
    """A neuron class that is known and cannot be served; the message says why, and the way out."""


@dataclass(frozen=True, eq=False)
class Neuron:
    """The facts of one neuron module.

    The free potential is `rest` and, added up over the input currents of the module's call, each current filtered by
    its kernel.

    Attributes:
        kernels: PSP kernels from its live parameters, one for each input current in the order of the call; that of an
            inhibitory current is negative.
        threshold: `theta` (mean over the population where neurons differ), or None for a readout.
        rest: the potential without input.
        in_steps: whether the kernels count time in steps, of which nobody has said how many seconds they last.
        note: what a user should know of the facts, such as a linearisation.
    """

    kernels: tuple[PspKernel, ...]
    threshold: float | None
    rest: float = 0.0
    in_steps: bool = False
    note: str | None = None

    @property
    def kernel(self) -> PspKernel:
        """The kernel of the first input current, the only one of most neurons."""
        return self.kernels[0]


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
        skipped_because: why an initialiser must not write the weight (frozen, shared, parametrised), or None.
        through: modules with weights that the signal passes on its way from the sources to the synapse. They feed no
            population of their own.
        port: which of the neuron's input currents it adds to.
        inner: of a synapse within a neuron module: presynaptic spikes `[T, B, *N]`, or the argument of the module's
            call, to the current that they cause; None for one that a walk from outside finds.
        argument: number of that argument, None where the pathway starts from a population.
        recurrent: whether the population's own spikes come back by it.
        rows: axis of the weight that counts output units, 0 or 1.
        mask: 1 where the weight has entries, 0 where there are none; None where it has all.
    """

    name: str
    synapse: nn.Module
    parameter: str
    sources: tuple[str, ...]
    via: tuple[str, ...] = ()
    norm: nn.Module | None = None
    skipped_because: str | None = None
    through: tuple[nn.Module, ...] = ()
    port: int = 0
    inner: Callable[[Tensor], Tensor] | None = None
    argument: int | None = None
    recurrent: bool = False
    rows: int = 0
    mask: Tensor | None = None

    @property
    def inside(self) -> bool:
        """Whether it starts in the module that it leads to."""
        return self.inner is not None and self.argument is None

    @property
    def family(self) -> Family | None:
        """The weight law that the synapse prescribes, of one sign under Dale's law; None where it has no wish."""
        family = getattr(self.synapse, "family", None)
        return family if isinstance(family, Family) else None

    @property
    def sign(self) -> int:
        """Sign of the weights of a one-sided law."""
        return int(getattr(self.synapse, "sign", 1))

    @property
    def weight(self) -> Tensor:
        """The weight tensor, one row per output unit."""
        if parametrize.is_parametrized(self.synapse, self.parameter):
            with preserved(self.synapse):  # computed anew, and a spectral norm moves on with every look at it
                computed: Tensor = getattr(self.synapse, self.parameter)
                return computed
        weight: Tensor = getattr(self.synapse, self.parameter)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias that goes with the weight."""
        name = self.parameter.replace("weight", "bias")
        bias: Tensor | None = None if name == self.parameter else getattr(self.synapse, name, None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def fan_in(self) -> int:
        """Afferents of one neuron: the entries of one row of the weight (convolution: away from the border)."""
        if isinstance(self.synapse, nn.modules.conv._ConvTransposeNd):  # weight [in, out / groups, *kernel]
            contacts = len(self.weight) // self.synapse.groups * self.weight[0, 0].numel()
            return round(contacts / math.prod(self.synapse.stride))
        if self.mask is not None:
            return round(float(self.mask.sum()) / self.mask.shape[self.rows])
        return self.weight.numel() // self.weight.shape[self.rows]


@dataclass(frozen=True, eq=False)
class InnerSynapse:
    """A synapse that a neuron module holds for itself: from one of its populations to another or the same, or between
    what it is called with and a population.

    Attributes:
        module: owns the weight.
        source: name of the presynaptic population within the holding module, or the number of the argument of the
            module's call that passes the weight.
        port: which of the target's input currents it adds to.
        current: spikes `[T, B, *N]` of the source, or the argument, -> the current that they cause over the whole
            sequence.
        parameter: attribute of the weight in `module`; None where that has one, or one of its children.
        mask: 1 where the weight has entries and 0 where there are none, such as on the diagonal of a recurrence
            without autapses; None where it has all.
        rows: axis of the weight that counts output units, 0 or 1.
    """

    module: nn.Module
    source: str | int
    port: int
    current: Callable[[Tensor], Tensor]
    parameter: str | None = None
    mask: Tensor | None = None
    rows: int = 0


@dataclass(frozen=True, eq=False)
class Member:
    """A population as the adapter of its module describes it.

    Attributes:
        neuron: its facts.
        emitter: the module whose output is its spikes.
        arguments: for each input current, which argument of the module's call reaches it as it is; None if none does.
        synapses: those of the module that lead to it.
        layout: how the module is called.
    """

    neuron: Neuron
    emitter: nn.Module
    arguments: tuple[int | None, ...]
    synapses: tuple[InnerSynapse, ...] = ()
    layout: Layout = Layout()  # noqa: RUF009 - frozen


@dataclass(frozen=True, eq=False)
class Population:
    """The neurons of one module, or one of several populations that it holds, with everything that feeds them.

    Attributes:
        name: of the module, as in `model.named_modules()`; with the population's own behind it where there are several.
        module: the neuron module, called with the currents from outside.
        neuron: its facts.
        pathways: the weights that feed it.
        unweighted: populations whose spikes reach it without passing a weight (identity skip connections).
        emitter: the module whose output is its spikes, or its potential if it never spikes; often `module` itself.
        arguments: for each input current, which argument of the module's call reaches it as it is; None if none does.
        layout: how the module is called.
        calls: of the module in one forward pass: one, or as many as time steps.
        steps: length of the trial that it was traced on.
    """

    name: str
    module: nn.Module
    neuron: Neuron
    pathways: tuple[Pathway, ...]
    unweighted: tuple[str, ...]
    emitter: nn.Module
    arguments: tuple[int | None, ...] = (0,)
    layout: Layout = Layout()  # noqa: RUF009 - frozen
    calls: int = 1
    steps: int | None = None

    @property
    def most(self) -> int:
        """How many currents the module is called with at most."""
        entries = [*self.arguments, *(q.argument for q in self.pathways)]
        return 1 + max((k for k in entries if k is not None), default=0)

    @property
    def emission(self) -> Layout:
        """How the emitter returns the spikes."""
        return self.layout if self.emitter is self.module else Layout()

    @property
    def emissions(self) -> int:
        """Calls of the emitter in one forward pass."""
        return self.calls if self.emitter is self.module else 1
