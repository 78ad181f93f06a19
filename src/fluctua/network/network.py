"""A model on a batch: how it runs over time, its populations in order, and passes of it that leave nothing behind."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Framework
from fluctua.network.adapters.registry import KnownNeurons, framework_of, prepare
from fluctua.network.facts import Population, WiringError
from fluctua.network.replay import Replay
from fluctua.network.run import Copies, Forward, Layout, hooked, mapped, plain_call, preserved, recorded, tensors_in
from fluctua.network.trace import trace

if TYPE_CHECKING:
    from fluctua.network.probe import ProbedNeuron

Group = tuple[Population, ...]
Axis = Literal[0, 1]


class BatchError(ValueError):
    """The batch cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class Network:
    """A model on a batch, found once; everything that fluctua does to a model begins with it.

    It keeps the model and the batch themselves, no copies. Whatever it runs, the model is afterwards as it was, also
    after an error: states of neurons, buffers, plain attributes, hooks, `requires_grad`, and torch's random number
    generators. Values of parameters are the affair of whoever writes them.

    Attributes:
        model: any model of known neurons.
        batch: its input.
        forward: `(model, batch)` runs all time steps, from rest.
        populations: in the order in which they run, each with the pathways into it.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> network = Network.of(model, (torch.rand(50, 4, 30) < 0.1).float())
        >>> [(p.name, [q.name for q in p.pathways]) for p in network.populations]
        [('1', ['0.weight']), ('3', ['2.weight'])]
        >>> network.spikes()["1"].shape
        torch.Size([50, 4, 20])
    """

    model: nn.Module
    batch: Any
    forward: Forward
    populations: tuple[Population, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batch: Any,
        *,
        forward: Forward | None = None,
        time: Axis = 0,
        dt: float | None = None,
        neurons: "Mapping[type[nn.Module], ProbedNeuron] | None" = None,
        readouts: Collection[str] | None = None,
        active: bool = False,
    ) -> "Network":
        """Find out how a model runs on a batch, and which populations and pathways it has.

        Args:
            model: any model of known neurons, of any framework and on any device.
            batch: input as in training: `[T, B, ...]`, or what the model or `forward` takes.
            forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called,
                or looped over time, as its neurons ask for.
            time: axis of the batch that is time, 0 or 1.
            dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
            neurons: what neuron classes are like that fluctua does not know.
            readouts: names of populations that are read by their potential, besides those that show it: see
                `fluctua.initialize`.
            active: refuse a batch that nothing can be measured on, before the model is traced: see `check_batch`.

        Raises:
            ValueError: another axis of time.
            BatchError: such a batch.
            WiringError: no spiking neuron found, or a model that cannot be run or traced.
            UnsupportedNeuronError: a neuron whose potential is not linear in its input.
        """
        if time not in (0, 1):
            raise ValueError(f"the axis of time is 0, for a batch [T, B, ...], or 1, for [B, T, ...], got {time!r}")
        known = KnownNeurons(dt, neurons or {}, readouts)
        chosen = over_time(model, batch, known, time) if forward is None or forward is plain_call else forward
        if active:
            check_batch(batch, chosen, time)
        found = with_recurrence(_traced(model, batch, chosen, known, time))
        return cls(model, batch, chosen, tuple(found))

    @property
    def groups(self) -> list[Group]:
        """The populations, each with those that it hears and is heard by: see `groups_of`."""
        return groups_of(self.populations)

    @property
    def spiking(self) -> tuple[Population, ...]:
        """The populations with a threshold.

        Raises:
            ValueError: none has one.
        """
        chosen = tuple(p for p in self.populations if p.neuron.threshold is not None)
        if not chosen:
            raise ValueError(
                f"no population of the model spikes ({', '.join(p.name for p in self.populations)}), so there is no "
                "rate to bring anywhere: build it from neurons with a threshold"
            )
        return chosen

    def chosen(self, names: Collection[str] | None) -> tuple[Population, ...]:
        """The populations of these names, in their order; None for all.

        Raises:
            ValueError: a name that no population has.
        """
        known = {p.name for p in self.populations}
        if names is not None and (unknown := set(names) - known):
            raise ValueError(f"no population {sorted(unknown)[0]!r} in the model: it has {', '.join(sorted(known))}")
        return tuple(p for p in self.populations if names is None or p.name in names)

    def preserved(self) -> Any:
        """A `with` block at whose end the model is as it was but for the values of parameters."""
        return preserved(self.model, prepare)

    def run(self) -> Any:
        """What the model returns on its batch, from rest; leaves it as it was."""
        with self.preserved():
            return self.forward(self.model, self.batch)

    def spikes(self, populations: Sequence[Population] | None = None) -> dict[str, Tensor]:
        """The spikes `[T, B, *N]` of populations (default: those that spike) on the batch, by name."""
        with recorded(self.spiking if populations is None else populations) as spikes, torch.no_grad():
            self.run()
        return spikes

    @contextmanager
    def replay(self, seed: int | None = None) -> Iterator[Replay]:
        """Passes that go just as far as the population at work: see `Replay`.

        Args:
            seed: of torch's own generators, for what is random in the model; default: as they are.
        """
        with self.preserved():
            if seed is not None:
                torch.manual_seed(seed)
            yield Replay(self.model, self.batch, self.forward, self.populations)

    @contextmanager
    def unchanged_on_failure(self) -> Iterator[None]:
        """Parameters and buffers get back their values where the block ends with an error."""
        tensors = [*nn.Module.parameters(self.model), *nn.Module.buffers(self.model)]
        kept = [tensor.detach().clone() for tensor in tensors]
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)
            raise


def _traced(model: nn.Module, batch: Any, forward: Forward, known: KnownNeurons, time: Axis) -> tuple[Population, ...]:
    """Two samples show the wiring as well as all of them, unless the model insists on more."""
    if forward is plain_call and isinstance(batch, Tensor) and batch.ndim > 1 and batch.shape[1 - time] > 2:
        with suppress(Exception):  # what is wrong with the model shows on the whole batch too
            return trace(model, batch.narrow(1 - time, 0, 2).clone(), forward, known)
    return trace(model, batch, forward, known)


# -- is a batch fit to run and to measure on? ------------------------------------------------------------------------


_AXES = {0: "[T, B, ...]", 1: "[B, T, ...]"}


def check_batch(batch: Any, forward: Forward, time: Axis = 0) -> None:
    """Refuse what nothing can be measured on.

    Raises:
        BatchError: not a floating-point tensor `[T, B, ...]` (unless `forward` knows what to do with it), empty,
            fewer than two time steps, NaN or infinite values, or nothing but zeros.
    """
    if forward is plain_call or isinstance(forward, StepLoop):
        _check_sequence(batch, time)
    tensors = [tensor for tensor in tensors_in(batch) if tensor.is_floating_point()]
    # A finite sum is proof, ten times cheaper than to look at every entry; one that overflows is none. Likewise zero.
    if not all(bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all()) for tensor in tensors):
        raise BatchError("the batch has NaN or infinite values: clean the data first")
    if tensors and not any(bool(tensor.sum() != 0) or bool(tensor.any()) for tensor in tensors):
        raise BatchError("the batch is all zero: there is nothing to measure, take one with activity")


def _check_sequence(batch: Any, time: Axis) -> None:
    if not isinstance(batch, Tensor):
        raise BatchError(
            f"the batch must be an input tensor {_AXES[time]}, got {type(batch).__name__}: pass the input alone, or "
            "forward=lambda model, batch: ..."
        )
    if not batch.is_floating_point():
        raise BatchError(f"the batch must be of floating point, got {batch.dtype}: call .float() on it")
    if batch.ndim < 3 or batch.numel() == 0 or batch.shape[time] < 2:
        raise BatchError(
            f"the batch must be a sequence {_AXES[time]} of at least 2 steps and 1 sample, got {list(batch.shape)}"
        )


# -- how a model is run over all time steps --------------------------------------------------------------------------
#
# Models of neurons that take whole sequences are called once. One of neurons that take a single step either loops over
# time itself, and is called once too, or is written for one step, and is then called for each. A call of the model
# tells which: in the first case its neurons run more than once. Neurons are brought to rest before.


@dataclass(frozen=True)
class WholeCall:
    """One call with the whole batch, after the model was brought to rest."""

    known: KnownNeurons

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """What the model returns."""
        self.known.reset(model)
        return model(batch)


@dataclass(frozen=True)
class StepLoop:
    """One call for each step of a batch, after the model was brought to rest."""

    known: KnownNeurons
    time: Axis = 0

    def __call__(self, model: nn.Module, batch: Tensor) -> Any:
        """What the model returns, step by step `[T, B, ...]`."""
        self.known.reset(model)
        step = _framework(model, self.known).step
        outputs, state = [], None
        for x in batch.unbind(self.time):
            output, state = step(model, x, state)
            outputs.append(output)
        return _stacked(outputs)


def over_time(model: nn.Module, batch: Any, known: KnownNeurons, time: Axis) -> Forward:
    """How a model is run that nobody gave a `forward` for: as its neurons ask for.

    Raises:
        WiringError: the model runs neither on the whole batch nor on one step of it.
    """
    neurons = known.found_in(model)
    if all(_is_own(neuron) for neuron in neurons):
        return plain_call
    stepwise = [n for n in neurons if any(spec.layout.stepwise for spec in known.specs(n).values())]
    whole = WholeCall(known)
    if not stepwise:
        return whole
    looping, failure = _loops(model, batch, whole, stepwise)
    if looping:
        return whole
    loop = StepLoop(known, time)
    if not isinstance(batch, Tensor) or batch.ndim < 2:
        raise WiringError(_cannot_run("its batch is not a tensor [T, B, ...]", failure)) from failure
    try:
        with preserved(model, prepare), torch.no_grad():
            loop(model, Copies(model).of(batch.narrow(time, 0, min(2, batch.shape[time]))))
    except Exception as error:
        raise WiringError(_cannot_run(f"{type(error).__name__}: {error}", failure)) from error
    return loop


class _Twice(BaseException):  # no Exception, which the model might catch
    """A neuron was called a second time."""


def _loops(model: nn.Module, batch: Any, whole: WholeCall, stepwise: list[nn.Module]) -> tuple[bool, Exception | None]:
    """Whether the model itself calls its neurons for more than one step, and what went wrong if it could not run."""
    called: set[nn.Module] = set()

    def count(module: nn.Module, args: Any) -> None:
        if module in called:
            raise _Twice
        called.add(module)

    with preserved(model, prepare), torch.no_grad(), hooked([n.register_forward_pre_hook(count) for n in stepwise]):
        try:
            whole(model, Copies(model).of(batch))
        except _Twice:
            return True, None
        except Exception as error:
            return False, error
    return False, None


def _cannot_run(step: str, whole: Exception | None) -> str:
    first = "reaches its neurons once only" if whole is None else f"fails ({type(whole).__name__}: {whole})"
    return (
        f"the model cannot be run over time: called with the whole batch it {first}, and step by step it fails "
        f"({step}); give forward=, a function (model, batch) that runs all time steps"
    )


def _is_own(neuron: nn.Module) -> bool:
    framework = framework_of(neuron)
    return framework is not None and framework.package == "fluctua"


def _framework(model: nn.Module, known: KnownNeurons) -> Framework:
    """That of the first neuron which is called step by step."""
    for neuron in known.found_in(model):
        framework = framework_of(neuron)
        if framework is not None and framework.layout(neuron).stepwise:
            return framework
    return Framework("", "", {}, lambda module: Layout())


def _stacked(outputs: list[Any]) -> Any:
    """The outputs of all steps as one, every tensor of them stacked."""
    tensors = list[list[Tensor]]()
    for output in outputs:
        found: list[Tensor] = []
        mapped(output, lambda x, found=found: found.append(x) or x)  # type: ignore[misc]
        tensors.append(found)
    columns = iter([torch.stack(column) for column in zip(*tensors, strict=True)])
    return mapped(outputs[0], lambda x: next(columns))


# -- which populations hear each other, and must be brought into their state together --------------------------------


def groups_of(populations: Sequence[Population]) -> list[Group]:
    """The populations, each with those that it hears and is heard by, or that are in one module with it.

    The groups follow each other so that each hears only itself and those before it.
    """
    reach = _reach(populations)
    remaining, ordered = list(range(len(populations))), list[Group]()
    while remaining:
        ready = next(i for i in remaining if not any(reach[j, i] and not reach[i, j] for j in remaining))
        group = [j for j in remaining if j == ready or (reach[ready, j] and reach[j, ready])]
        ordered.append(tuple(populations[j] for j in group))
        remaining = [j for j in remaining if j not in group]
    return ordered


def hears_itself(group: Group) -> bool:
    """Whether spikes of the group come back to it."""
    names = {p.name for p in group}
    return any(q.recurrent for p in group for q in p.pathways) or any(names & set(p.unweighted) for p in group)


def with_recurrence(populations: Sequence[Population]) -> list[Population]:
    """The populations, their pathways marked as recurrent where they come from the population's own group."""
    marked = {p.name: {member.name for member in group} for group in groups_of(populations) for p in group}
    loops = _reach(populations).diagonal()
    return [
        replace(
            p,
            pathways=tuple(
                replace(q, recurrent=q.recurrent or (bool(loop) and not marked[p.name].isdisjoint(q.sources)))
                for q in p.pathways
            ),
        )
        for p, loop in zip(populations, loops, strict=True)
    ]


def _reach(populations: Sequence[Population]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Whether spikes of one population get to another, over any number of others."""
    index = {p.name: i for i, p in enumerate(populations)}
    reach = np.zeros((len(populations), len(populations)), dtype=bool)
    for i, p in enumerate(populations):
        for source in p.heard:
            if source in index:
                reach[index[source], i] = True
        for j, other in enumerate(populations):
            reach[i, j] |= i != j and other.module is p.module
    for k in range(len(populations)):
        reach |= np.outer(reach[:, k], reach[k])
    return reach
