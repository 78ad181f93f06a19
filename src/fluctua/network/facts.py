"""What a network is to the theory: populations of neurons, the pathways into them, and how their modules are called.

Facts, no behaviour.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network.run import preserved
from fluctua.theory.laws import Family
from fluctua.theory.psp import PspKernel

Array = NDArray[np.float64]
Time = Literal["first", "second", "step", "merged"]

INPUT = "input"  # name of the source of what no population of the network has sent


class WiringError(ValueError):
    """The model's wiring cannot be read; the message says why and what to do."""


class UnsupportedNeuronError(ValueError):
    """A neuron class that is known and cannot be served; the message says why, and the way out."""


@dataclass(frozen=True)
class Layout:
    """The convention of one neuron module; a subclass for a framework that passes currents by other ways.

    Attributes:
        time: "first" for a call with the whole sequence `[T, B, *N]`, "second" for `[B, T, *N]`, "merged" for
            `[B * T, *N]` sample by sample, "step" for one call a time step with `[B, *N]`.
        samples: B of a merged sequence, None where T is known.
        steps: T of a merged sequence, None where B is known.
    """

    time: Time = "first"
    samples: int | None = None
    steps: int | None = None

    @property
    def stepwise(self) -> bool:
        """Whether the module is called once for each time step."""
        return self.time == "step"

    def currents(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> tuple[Tensor, ...]:
        """The input currents of one call, as they are given: its leading tensors, `most` at most."""
        currents: list[Tensor] = []
        for argument in args or tuple(kwargs.values()):
            if not isinstance(argument, Tensor) or len(currents) == most:
                break
            currents.append(argument)
        return tuple(currents)

    def spikes(self, module: Any, output: Any) -> Tensor:
        """What the module has emitted in one call, as it is returned: the first tensor of its output."""
        found = first_tensor(output)
        if found is None:
            raise ValueError(f"{type(module).__name__} returned no tensor that could be its spikes")
        return found

    def answer(self, module: Any, output: Any, spikes: Tensor) -> Any:
        """What the module returns in place of `output` where its spikes in that call are `spikes` instead."""
        return with_first_tensor(output, spikes)

    def as_sequence(self, x: Tensor) -> Tensor:
        """What one call takes or returns -> `[t, B, *N]`, where t is 1 for a step; a view."""
        if self.time == "step":
            return x.unsqueeze(0)
        if self.time == "second":
            return x.transpose(0, 1)
        if self.time == "merged":
            self._check_merged(len(x))
            steps = -1 if self.samples else self.steps or 1
            split: Tensor = x.unflatten(0, (self.samples or -1, steps))  # type: ignore[no-untyped-call]
            return split.transpose(0, 1)
        return x

    def _check_merged(self, frames: int) -> None:
        known, unit = (self.samples, "samples") if self.samples else (self.steps or 1, "steps")
        if frames % known:
            raise ValueError(
                f"{frames} frames in one axis are no trials of {known} {unit}: set the number of {unit} in the neurons "
                "to that of the batch"
            )

    def as_called(self, x: Tensor) -> Tensor:
        """The way back: `[t, B, *N]` -> what one call takes or returns."""
        if self.time == "step":
            return x.squeeze(0)
        if self.time == "second":
            return x.transpose(0, 1)
        if self.time == "merged":
            return x.transpose(0, 1).flatten(0, 1)
        return x


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in what a module returns."""
    if isinstance(output, Tensor):
        return output
    for item in output if isinstance(output, tuple | list) else ():
        if (found := first_tensor(item)) is not None:
            return found
    return None


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """What a module returns, with another tensor in the place of its first."""
    done = False

    def replaced(x: Tensor) -> Tensor:
        nonlocal done
        x, done = (x if done else tensor), True
        return x

    return mapped(output, replaced)


def mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a module returns, every tensor in it changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple | list):
        items = [mapped(item, change) for item in output]
        return output._make(items) if hasattr(output, "_make") else type(output)(items)
    if isinstance(output, dict):
        return type(output)((key, mapped(item, change)) for key, item in output.items())
    return output


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


def inner_pathway(
    module: nn.Module,
    source: str | int,
    port: int,
    current: Callable[[Tensor], Tensor],
    *,
    parameter: str = "",
    mask: Tensor | None = None,
    rows: int = 0,
) -> Pathway:
    """A pathway that a neuron module holds for itself, as its adapter describes it; tracing gives it its name.

    Args:
        module: owns the weight, or one of its children does where no `parameter` is named.
        source: name of the presynaptic population within the holding module, or the number of the argument of the
            module's call that passes the weight.
        port: which of the target's input currents it adds to.
        current: spikes `[T, B, *N]` of the source, or the argument, -> the current over the whole sequence.
        parameter: attribute of the weight in `module`.
        mask: see `Pathway`, and so is the rest.
        rows: axis of the weight that counts output units.
    """
    sources, argument = ((), source) if isinstance(source, int) else ((source,), None)
    return Pathway("", module, parameter, sources, port=port, inner=current, argument=argument, rows=rows, mask=mask)


@dataclass(frozen=True, eq=False)
class PopulationSpec:
    """A population as the adapter of its module describes it.

    Attributes:
        neuron: its facts.
        emitter: the module whose output is its spikes.
        arguments: for each input current, which argument of the module's call reaches it as it is; None if none does.
        inner: pathways that the module holds itself and that lead to the population.
        layout: how the module is called.
    """

    neuron: Neuron
    emitter: nn.Module
    arguments: tuple[int | None, ...]
    inner: tuple[Pathway, ...] = ()
    layout: Layout = Layout()

    @property
    def most(self) -> int:
        """How many currents the module is called with at most for this population."""
        return most_arguments(self.arguments, self.inner)


def most_arguments(arguments: tuple[int | None, ...], pathways: tuple[Pathway, ...]) -> int:
    """How many currents a module is called with at most."""
    entries = [*arguments, *(q.argument for q in pathways)]
    return 1 + max((k for k in entries if k is not None), default=0)


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
    layout: Layout = Layout()
    calls: int = 1
    steps: int | None = None

    @property
    def most(self) -> int:
        """How many currents the module is called with at most."""
        return most_arguments(self.arguments, self.pathways)

    @property
    def emission(self) -> Layout:
        """How the emitter returns the spikes."""
        return self.layout if self.emitter is self.module else Layout()

    @property
    def emissions(self) -> int:
        """Calls of the emitter in one forward pass."""
        return self.calls if self.emitter is self.module else 1
