"""What a network is to the theory: populations of neurons, the pathways into them, and their free potential."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network.preserve import preserved
from fluctua.network.run import Layout
from fluctua.neurons.leaky import numbers
from fluctua.theory.laws import Exponential, Family
from fluctua.theory.psp import Array, PspKernel
from fluctua.timeloop.engines import filtered

FAR = 1e3  # thresholds that are larger, also relative to the lowest of the others, are out of reach
INPUT = "input"  # name of the source of signals from outside the network


def numbers_of(value: Any) -> Array:
    """The values of a number, tensor or parameter; of shape [] if all neurons share one."""
    values = numbers(value)
    return values.reshape(()) if values.size == 1 else values


@dataclass(frozen=True, eq=False)
class Neuron:
    """The facts of one neuron module.

    The free potential is `rest` plus, for each input current of the module's call, that current filtered by its kernel.

    Attributes:
        kernels: PSP kernels from its live parameters, one for each input current in the order of the call; that of an
            inhibitory current is negative.
        threshold: `theta` (mean over the population if neurons differ), or None for a readout.
        rest: the potential without input.
        in_steps: whether the kernels count time in steps whose length in seconds is unknown.
        note: what a user should know about the facts, such as a linearisation.
        resets: whether a spike changes the potential.
        thresholds: if neurons differ, those of all neurons, in a shape that broadcasts to `[*N]`.
        size: of one spike in the module's output, `[]` or `[*N]`.
    """

    kernels: tuple[PspKernel, ...]
    threshold: float | None
    rest: float = 0.0
    in_steps: bool = False
    note: str | None = None
    resets: bool = True
    thresholds: Array | None = None
    size: Array | float = 1.0

    @staticmethod
    def spiking(kernels: tuple[PspKernel, ...], threshold: Any, rest: float = 0.0, **more: Any) -> "Neuron":
        """From a threshold as frameworks keep it: a number or a tensor, one for all or one per neuron, or none."""
        if threshold is None:
            return Neuron(kernels, None, rest, **more)
        values = numbers_of(threshold)
        values = values.reshape(values.shape[next((k for k, n in enumerate(values.shape) if n > 1), values.ndim) :])
        differ = values if values.size and values.min() < values.max() else None
        return Neuron(kernels, float(values.mean()), rest, thresholds=differ, **more)

    @staticmethod
    def in_closed_form(module: Any, timing: Any) -> "Neuron":
        """A neuron of fluctua that states its kernels itself; without a threshold it is a readout."""
        return Neuron.spiking(module.kernels(), getattr(module, "threshold", None))

    def counted(self, emitted: Tensor) -> Tensor:
        """Numbers of spikes, from what the module emits `[T, B, *N]`."""
        return emitted if np.all(self.size == 1) else emitted / torch.as_tensor(self.size).to(emitted)

    @property
    def theta(self) -> float | Array | None:
        """The threshold; one per neuron if they differ."""
        return self.thresholds if self.threshold is not None and self.thresholds is not None else self.threshold

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
        parameter: attribute of the weight in that module, or for a parametrised weight the path to its source.
        sources: names of the presynaptic populations; `("input",)` if the data arrive directly.
        via: operations between the synapse's output and the neuron's input, as autograd names them.
        norms: the normalisation layers in between whose gains set the scale of the current: one, or one for each step.
        skipped_because: why an initialiser must not write the weight (frozen, shared, parametrised), or None.
        through: modules with weights on the way from the sources to the synapse. They feed no population of their own.
        port: which of the neuron's input currents it adds to.
        inner: for a synapse within a neuron module: from presynaptic spikes `[T, B, *N]`, or the argument of the
            module's call, to the current that they cause; None for a synapse outside.
        argument: index of that argument, None if the pathway starts from a population.
        recurrent: whether the population's own spikes return through it.
        rows: axis of the weight that counts output units, 0 or 1.
        mask: 1 where the weight has entries, 0 where there are none; None where it has all.
        bias_name: attribute of the bias that goes with the weight, None where there is none.
        note: what a user should know of the synapse's other parameters.
        linear: whether the current is linear in the weight; where it is rounded, that is only nearly so.
        carries: whether the weight, if of either sign, can set a mean; not what rounds it by steps of its own.
        normed: whether the gains of its norms may be set for this population even where the weight must not be written.
        shifts: whether the current is no more than monotonic in a constant added to the weight, which is skipped.
        signs: under Dale's law by hand, of weights that act by their size or positive part: 1 where an entry
            excites, -1 where it inhibits, 0 where it has no effect; None of all others.
        trunk: the population that reads the same current before anything was added to it, None where there is none.
    """

    name: str
    synapse: nn.Module
    parameter: str
    sources: tuple[str, ...]
    via: tuple[str, ...] = ()
    norms: tuple[nn.Module, ...] = ()
    skipped_because: str | None = None
    through: tuple[nn.Module, ...] = ()
    port: int = 0
    inner: Callable[[Tensor], Tensor] | None = None
    argument: int | None = None
    recurrent: bool = False
    rows: int = 0
    mask: Tensor | None = None
    bias_name: str | None = "bias"
    note: str | None = None
    linear: bool = True
    carries: bool = True
    normed: bool = False
    shifts: bool = False
    trunk: str | None = None
    signs: Tensor | None = None

    @property
    def inside(self) -> bool:
        """Whether it starts in the module that it leads to."""
        return self.inner is not None and self.argument is None

    @property
    def family(self) -> Family | None:
        """The weight law that the synapse prescribes, one-sided under Dale's law; None if it prescribes none."""
        family = getattr(self.synapse, "family", None) if self.signs is None else Exponential()
        return family if isinstance(family, Family) else None

    @property
    def sign(self) -> int:
        """Sign of the weights of a one-sided law."""
        return 1 if self.signs is not None else int(getattr(self.synapse, "sign", 1))

    @property
    def effect(self) -> int:
        """1 if what weights of a one-sided law add to the current is positive, -1 if negative, 0 if it is both."""
        if self.signs is None:
            return self.sign
        return int((self.signs > 0).any()) - int((self.signs < 0).any())

    @property
    def weight(self) -> Tensor:
        """The weight tensor, one row per output unit."""
        if parametrize.is_parametrized(self.synapse, self.parameter):
            with preserved(self.synapse):  # it is computed anew, and every look advances a spectral norm
                computed: Tensor = getattr(self.synapse, self.parameter)
                return computed
        weight: Tensor = attrgetter(self.parameter)(self.synapse)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias that goes with the weight."""
        with suppress(AttributeError):
            bias = attrgetter(self.bias_name or "")(self.synapse)
            return bias if isinstance(bias, Tensor) else None
        return None

    @property
    def fan_in(self) -> int:
        """Afferents of one neuron: the entries of one row of the weight (convolution: away from the border)."""
        if isinstance(self.synapse, nn.modules.conv._ConvTransposeNd):  # weight [in, out / groups, *kernel]
            contacts = len(self.weight) // self.synapse.groups * self.weight[0, 0].numel()
            return round(contacts / math.prod(self.synapse.stride))
        if self.mask is not None:
            return round(float(self.mask.sum()) / self.mask.shape[self.rows])
        return self.weight.numel() // self.weight.shape[self.rows]


def one_step_late(x: Tensor) -> Tensor:
    """A sequence `[T, ...]` delayed by one step, starting with zeros."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


@dataclass(frozen=True, eq=False)
class PopulationSpec:
    """A population as the adapter of its module describes it.

    Attributes:
        neuron: its facts.
        emitter: the module whose output is its spikes.
        arguments: for each input current, which argument of the module's call it equals; None if none.
        inner: pathways inside the module that lead to the population, without a name, which tracing gives. Their source
            is a population in the module, "" for the only one, or none if an `argument` of the call passes the weight;
            without a `parameter` one of the synapse's children owns the weight.
        layout: how the module is called.
    """

    neuron: Neuron
    emitter: nn.Module
    arguments: tuple[int | None, ...]
    inner: tuple[Pathway, ...] = ()
    layout: Layout = Layout()  # noqa: RUF009 - frozen

    @property
    def most(self) -> int:
        """Maximal number of currents that the module is called with for this population."""
        entries = [*self.arguments, *(q.argument for q in self.inner)]
        return 1 + max((k for k in entries if k is not None), default=0)


@dataclass(frozen=True, eq=False)
class Population:
    """The neurons of one module, or one of several populations in it, with everything that feeds them.

    Attributes:
        name: of the module, as in `model.named_modules()`; followed by the population's own if there are several.
        module: the neuron module, called with the currents from outside.
        neuron: its facts.
        pathways: the weights that feed it.
        unweighted: populations whose spikes reach it without a weight (identity skip connections).
        emitter: the module whose output is its spikes, or its potential if it never spikes; often `module` itself.
        arguments: for each input current, which argument of the module's call it equals; None if none.
        layout: how the module is called.
        calls: of the module in one forward pass: one, or as many as time steps.
        steps, samples: of the batch that it was traced on; two samples if two were enough to find the wiring.
        offset: whether parameters other than the bias of a weight, or data without a weight, add to its current.
        shown: what the model's output is made of: its "spikes", its "potential", both, or neither.
        gates: the weights of whatever multiplies its current.
        most: maximal number of currents that the module is called with for it.
        returned: whether the model returns its spikes, or what it makes of them without a weight, such as counts.
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
    samples: int | None = None
    shown: frozenset[str] = frozenset()
    offset: bool = False
    gates: tuple[Pathway, ...] = ()
    most: int = 1
    returned: bool = False

    @property
    def heard(self) -> set[str]:
        """Names of the populations that feed it."""
        return {*self.unweighted}.union(*(q.sources for q in (*self.pathways, *self.gates)))

    def entering(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The currents, among those that its module is called with, that directly enter it, neuron by neuron."""
        return [given[k] for k in self.arguments if k is not None and k < len(given)]

    @property
    def emission(self) -> Layout:
        """How the emitter returns the spikes."""
        return self.layout if self.emitter is self.module else Layout()

    @property
    def emissions(self) -> int:
        """Calls of the emitter in one forward pass."""
        return self.calls if self.emitter is self.module else 1


def free_potential(current: Tensor, kernel: PspKernel) -> Tensor:
    """`U = eps * I` from rest: current `[T, B, *N]` -> potential of the same shape, without gradient.

    Half precision is integrated and returned in float32.
    """
    current = current.detach().to(torch.promote_types(current.dtype, torch.float32))
    found = kernel.system()
    return _convolved(current, kernel) if found is None else filtered(current, *found)


def population_currents(
    population: Population, arguments: Sequence[Tensor], spikes: Mapping[str, Tensor]
) -> list[Tensor | None]:
    """Input currents `[T, B, *N]` of a population, one for each of its kernels; None if none arrives.

    Args:
        population: the population.
        arguments: the currents that its module is called with.
        spikes: `[T, B, *N]` of the sources of recurrent pathways, by name; without them these pathways add
            nothing.
    """
    currents = currents_from_outside(population, arguments)
    for q in recurrent_pathways(population):
        if q.inner is not None and q.sources[0] in spikes:
            _add(currents, q.port, q.inner(spikes[q.sources[0]]))
    return currents


def currents_from_outside(population: Population, arguments: Sequence[Tensor]) -> list[Tensor | None]:
    """The currents of a population that its module is called with, one for each of its kernels."""
    currents = [None if k is None or k >= len(arguments) else arguments[k] for k in population.arguments]
    for q in _once(q for q in population.pathways if q.argument is not None):
        if q.inner is not None and q.argument is not None:
            _add(currents, q.port, q.inner(arguments[q.argument]))
    return currents


def recurrent_pathways(population: Population) -> list[Pathway]:
    """The pathways that start in a population's own module, one for each synapse."""
    return _once(q for q in population.pathways if q.inside)


def _once(pathways: Iterable[Pathway]) -> list[Pathway]:
    """One pathway for each synapse; a synapse with two weights has two in the population."""
    return list({q.inner: q for q in reversed(list(pathways))}.values())[::-1]


def _add(currents: list[Tensor | None], port: int, added: Tensor) -> None:
    arrived = currents[port]
    currents[port] = added if arrived is None else arrived + added


def potential_of(neuron: Neuron, currents: Sequence[Tensor | None]) -> Tensor:
    """The free potential of a population: `rest + sum_p eps_p * I_p` over its input currents `[T, B, *N]`."""
    u = response(neuron, currents)
    return u + neuron.rest if neuron.rest else u


def response(neuron: Neuron, currents: Sequence[Tensor | None]) -> Tensor:
    """What input currents `[T, B, *N]` of a population add to its free potential: `sum_p eps_p * I_p`."""
    parts = [
        free_potential(current, kernel)
        for current, kernel in zip(currents, neuron.kernels, strict=True)
        if current is not None
    ]
    return sum(parts[1:], parts[0])


def _convolved(x: Tensor, k: PspKernel) -> Tensor:
    steps = x.shape[0]
    eps = torch.as_tensor(k.response(steps)).to(x)
    eps = eps.reshape(steps, *[1] * (x.ndim - eps.ndim), *eps.shape[1:])
    size = 2 * steps  # zero padding: without it the convolution would wrap around
    spectrum = torch.fft.rfft(x, size, dim=0) * torch.fft.rfft(eps, size, dim=0)
    potential: Tensor = torch.fft.irfft(spectrum, size, dim=0)[:steps]
    return potential
