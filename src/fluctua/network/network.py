"""A model on a batch: how it runs over time, its populations in order, and passes that leave no trace in it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.network.adapters.registry import KnownNeurons, WholeCall, over_time, prepare
from fluctua.network.errors import AXES, Axis, BatchError, UnsupportedNeuronError, WiringError
from fluctua.network.facts import Population
from fluctua.network.intake import Input, take
from fluctua.network.preserve import gpus_of, in_turn, preserved, seed_torch, silent_gradients
from fluctua.network.replay import Replay
from fluctua.network.run import Forward, mapped, plain_call, recorded, tensors_in
from fluctua.network.trace import Left, trace
from fluctua.network.trace_pass import bare_parameters

if TYPE_CHECKING:
    from fluctua.network.probe import ProbedNeuron

Group = tuple[Population, ...]

QUIET = 3.0
"""The xi of an output before training: few random spikes for a loss to count, and within reach of surrogates."""


@dataclass(frozen=True, eq=False)
class Network:
    """A model on a batch, found once; everything that fluctua does to a model begins with it.

    It keeps the model and the batch themselves, not copies. After every run, also after an error, the model is as it
    was: states of neurons, buffers, plain attributes, hooks, `requires_grad`, and torch's random number generators.
    Only the values of parameters are left to the caller.

    Attributes:
        model: any model of known neurons.
        batch: its input.
        forward: `(model, batch)` runs all time steps, from rest.
        populations: in the order in which they run, each with the pathways into it.
        left: neurons that cannot be served and stay as they are, with the weights that feed them.
        notes: what was done to the batch, and which neurons were left, a sentence each.
        time: axis of the batch that is time, None for a static input, "own" if the user runs the model.
        spread: standard deviation of the values that came with the batch, if these are no classes.

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
    left: tuple[Left, ...] = ()
    notes: tuple[str, ...] = ()
    time: Axis | Literal["own"] = "own"
    spread: float | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batch: Any,
        *,
        forward: Forward | None = None,
        time: Axis = 0,
        steps: int | None = None,
        dt: float | None = None,
        neurons: "Mapping[type[nn.Module], ProbedNeuron] | None" = None,
        readouts: Collection[str] | None = None,
        active: bool = False,
    ) -> "Network":
        """Find out how a model runs on a batch, and which populations and pathways it has.

        Args:
            model: any model of known neurons, of any framework and on any device.
            batch: input as in training: `[T, B, ...]`, or what the model or `forward` takes. From a `DataLoader` the
                first batch is taken, from `(x, y)` the input; NumPy arrays, integers and booleans become tensors of the
                weights' type.
            forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called,
                or looped over time, as its neurons require.
            time: axis of the batch that is time, 0 or 1; None for a static input `[B, ...]`.
            steps: how many steps a static input is shown for; not needed if the model makes a sequence of it.
            dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
            neurons: facts about neuron classes that fluctua does not know.
            readouts: names of populations whose potential is read, besides those that show it: see
                `fluctua.initialize`.
            active: refuse a batch that nothing can be measured on, before the model is traced: see `check_batch`.

        Raises:
            ValueError: an invalid axis of time, or `steps` for an input that is not static.
            BatchError: a batch without activity, or read along the wrong axis.
            WiringError: no spiking neuron found, or a model that cannot be run or traced.
            UnsupportedNeuronError: no neuron can be served; a single unsupported one is left as it is.
        """
        by_default = forward is None or forward is plain_call
        _check_time(time, steps, by_default)
        if not isinstance(model, nn.Module):
            raise WiringError(f"the model must be a torch module, got {type(model).__name__}: pass the model itself")
        if dt is not None and not (isinstance(dt, Real) and 0 < dt < float("inf")):
            raise ValueError(f"the time step dt must be a positive number of seconds, got {dt!r}")
        _check_names(readouts, "readouts")
        if any(tensor.is_meta for tensor in tensors_in((batch, *model.parameters(), *model.buffers()))):
            raise WiringError("model and batch need values, and some have none, on the device meta: use another device")
        if torch.is_inference_mode_enabled():
            raise WiringError("no wiring can be found inside torch.inference_mode(): leave it, torch.no_grad() is fine")
        known = KnownNeurons(dt, neurons or {}, readouts)
        ready = isinstance(batch, Tensor) and batch.is_floating_point()
        taken = Input(batch) if ready else take(model, batch, known, by_default)
        if any(tensor.is_inference() for tensor in tensors_in(taken.batch)):
            taken = replace(taken, batch=mapped(taken.batch, Tensor.clone))  # autograd takes no others
        if active:
            check_values(taken.batch)
        own = None if by_default else forward
        known.served_in(model)  # or says why not
        chosen = own or over_time(model, taken.batch, known, time, steps)
        if active and by_default and not isinstance(chosen, WholeCall):
            _check_sequence(taken.batch, time)
        running = chosen
        if bare := bare_parameters(model, known.found_in(model)):
            from fluctua.network.bare import BareWeights, WithLayers  # only networks with weights outside of layers

            running = WithLayers(chosen, BareWeights(model, bare))
        found, left = _traced(model, taken, running, known, time)
        for q in (q for p in found for q in p.pathways if q.weight.numel() == 0):
            raise WiringError(f"{q.name} has the shape {[*q.weight.shape]}: a population needs a neuron and an input")
        if found:
            _check_reading(found[0], taken, chosen, time, steps)
        notes = (*taken.notes, *(one.note for one in left))
        axis = time if by_default else "own"
        return cls(model, taken.batch, running, tuple(with_recurrence(found)), left, notes, axis, spread=taken.spread)

    @property
    def groups(self) -> list[Group]:
        """The populations, grouped with those that they share a loop with: see `groups_of`."""
        return groups_of(self.populations)

    @property
    def spiking(self) -> tuple[Population, ...]:
        """The populations with a threshold.

        Raises:
            ValueError: there are none.
        """
        chosen = tuple(p for p in self.populations if p.neuron.threshold is not None)
        if not chosen:
            raise ValueError(
                f"no population of the model spikes ({', '.join(p.name for p in self.populations)}), so there is no "
                "rate to set: build it from neurons with a threshold"
            )
        return chosen

    @property
    def outputs(self) -> dict[str, Population]:
        """The spiking populations that hear others by weights of their own and whose spikes only leave the model."""
        heard = {name for p in self.populations for name in p.heard}
        weighted = {p.name: not p.unweighted and all(q.trunk is None for q in p.pathways) for p in self.populations}
        return {
            p.name: p
            for p in self.populations
            if p.returned
            and p.neuron.threshold is not None
            and weighted[p.name]
            and p.name not in heard
            and not p.heard.isdisjoint(weighted)
        }

    def chosen(self, names: Collection[str] | None) -> tuple[Population, ...]:
        """The populations with these names, in running order; None for all.

        Raises:
            ValueError: a name that no population has, or a string in place of a list of names.
            UnsupportedNeuronError: a named neuron cannot be served.
        """
        known = {p.name for p in self.populations}
        _check_names(names, "populations")
        if names is not None and (unknown := set(names) - known):
            for one in self.left:
                if one.name in unknown:
                    raise UnsupportedNeuronError(one.reason)
            raise ValueError(f"no population {sorted(unknown)[0]!r} in the model: it has {', '.join(sorted(known))}")
        return tuple(p for p in self.populations if names is None or p.name in names)

    def doubts(self, steps: int, samples: int) -> Iterator[str]:
        """Doubts about the numbers of steps and samples that its neurons saw, a sentence each."""
        if self.time == "own" or not isinstance(self.batch, Tensor) or self.batch.ndim < 2:
            return
        shape = self.batch.shape
        possible = shape[:2] if self.time == 0 else shape[:1]
        if samples == 1 and steps == shape[0] and self.time == 0:
            yield (
                f"the batch {[*shape]} was read as {steps} step{'s' * (steps > 1)} of 1 sample: if its first axis "
                "counts samples, say time=None and steps= for a static input, or time=1"
            )
        elif self.time == 0 and (steps, samples) == shape[:2] and _looks_batch_first(self.batch):
            yield (
                f"the batch {[*shape]} was read as {steps} steps of {samples} samples, but neighbours along its second "
                "axis are alike and along its first they are not: if the second is time, say time=1"
            )
        elif samples not in possible and steps * samples not in possible:
            yield (
                f"the neurons were called with {samples} samples, but the batch {[*shape]} has "
                f"{' or '.join(map(str, possible))}: their second axis is not that of the samples, and the report is "
                "wrong about single neurons"
            )

    def preserved(self) -> Any:
        """A `with` block at whose end the model is as it was, except for the values of parameters."""
        return preserved(self.model, prepare)

    def run(self) -> Any:
        """What the model returns on its batch, from rest; leaves it as it was."""
        with self.preserved():
            return self.forward(self.model, self.batch)

    @in_turn
    def spikes(self, populations: Sequence[Population] | None = None) -> dict[str, Tensor]:
        """The spikes `[T, B, *N]` of populations (default: those that spike) on the batch, by name."""
        with recorded(self.spiking if populations is None else populations) as spikes, torch.no_grad():
            self.run()
        return spikes

    @contextmanager
    def replay(self, seed: int | None = None) -> Iterator[Replay]:
        """Passes that run only as far as needed: see `Replay`; the seed is of torch's own generators."""
        with self.preserved(), silent_gradients(self.model):
            if seed is not None:
                seed_torch(seed, gpus_of(self.model))
            yield Replay(self.model, self.batch, self.forward, self.populations)


def _traced(
    model: nn.Module, taken: Input, forward: Forward, known: KnownNeurons, time: Axis
) -> tuple[tuple[Population, ...], tuple[Left, ...]]:
    """Trace with two samples, which show the wiring as well as all, unless there are labels or the model needs more."""
    batch, axis = taken.batch, 1 if time == 0 else 0
    inner = getattr(forward, "forward", None)
    plain = plain_call in (forward, inner, getattr(inner, "forward", None)) and taken.labels is None
    if plain and isinstance(batch, Tensor) and batch.ndim > 1 and batch.shape[axis] > 2:
        with suppress(Exception):  # a faulty model also fails on the whole batch
            return trace(model, batch.narrow(axis, 0, 2).clone(), forward, known)
    return trace(model, batch, forward, known)


def populations_of(model: nn.Module, batch: Any, forward: Forward | None = None, **options: Any) -> Group:
    """The populations of a model: what `fluctua.wiring.trace` was in version 0.1."""
    return Network.of(model, batch, forward=forward, **options).populations


def _check_names(names: Collection[str] | None, what: str) -> None:
    """Refuse a string, whose letters could be names."""
    if isinstance(names, str):
        raise ValueError(f"{what}= takes a list of names, got the string {names!r}: write {what}=[{names!r}]")


def _check_time(time: Axis, steps: int | None, by_default: bool) -> None:
    if time not in (0, 1, None) or isinstance(time, float | bool):
        raise ValueError(f"the axis of time is 0, for [T, B, ...], or 1, or None for a static input, got {time!r}")
    if steps is not None and (time is not None or not by_default or not isinstance(steps, Integral) or steps < 1):
        said = f"time={time}" if by_default else "forward="
        raise ValueError(
            "steps= is how often a static input is shown, one or more with time=None and without forward=, got "
            f"steps={steps} with {said}"
        )


def check_values(batch: Any) -> None:
    """Refuse a batch on which nothing can be measured.

    Raises:
        BatchError: empty, NaN or infinite values, or nothing but zeros.
    """
    tensors = [tensor for tensor in tensors_in(batch) if tensor.is_floating_point()]
    # A finite sum proves finite entries ten times faster than looking at each; an overflow proves nothing. So for zero.
    if not all(bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all()) for tensor in tensors):
        raise BatchError("the batch has NaN or infinite values: remove them first")
    if tensors and not any(tensor.numel() for tensor in tensors):
        raise BatchError(f"the batch is empty, {[*tensors[0].shape]}: a sequence needs at least 2 steps and 1 sample")
    if tensors and not any(bool(tensor.sum() != 0) or bool(tensor.any()) for tensor in tensors):
        raise BatchError("the batch is all zero: there is nothing to measure, take one with activity")


def _check_sequence(batch: Any, time: Axis) -> None:
    if not isinstance(batch, Tensor):
        raise BatchError(
            f"the batch must be an input tensor {AXES[time]}, got {type(batch).__name__}: pass the input alone, or "
            "forward=lambda model, batch: ..."
        )
    if not batch.is_floating_point():
        raise BatchError(f"the batch must be of floating point, got {batch.dtype}: call .float() on it")
    least, wanted = (2, "static input") if time is None else (3, "sequence")
    if batch.ndim < least or batch.numel() == 0 or (time is not None and batch.shape[time] < 2):
        size = "1 sample" if time is None else "2 steps and 1 sample"
        raise BatchError(f"the batch must be a {wanted} {AXES[time]} of at least {size}, got {[*batch.shape]}")


def _check_reading(first: Population, taken: Input, forward: Forward, time: Axis, steps: int | None) -> None:
    """Refuse samples mistaken for time steps, as labels tell, and `steps` that differ from the model's own loop."""
    if taken.labels is not None and first.steps == taken.labels != first.samples:
        raise BatchError(
            f"the batch {[*taken.batch.shape]} came with {taken.labels} labels but was read as {first.steps} steps of "
            f"{first.samples} samples: say time={1 if time == 0 else 0}, or time=None and steps= for a static input"
        )
    if isinstance(forward, WholeCall) and steps is not None and first.steps != steps:
        raise ValueError(
            f"the model itself shows its input for {first.steps} steps, so steps={steps} cannot be used: leave it out"
        )


def _looks_batch_first(batch: Tensor) -> bool:
    """Whether a batch has an order, as time has, along its second axis but not along its first."""
    if batch.layout != torch.strided or batch.ndim < 3:
        return False
    little = batch.detach()[:128, :128].flatten(2)
    little = little[:, :, :: max(1, little.numel() // 2**20)].double().cpu()
    (_, first), (alike, second) = _order(little), _order(little.transpose(0, 1))
    return alike > 0.1 and second <= 0.01 and first > 0.1


def _order(x: Tensor, draws: int = 999) -> tuple[float, float]:
    """Excess correlation of neighbours along the first axis over any two entries, and its probability by chance."""
    rows = x.flatten(1) - x.flatten(1).mean(0)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    alike = rows @ rows.T
    shuffled = torch.rand(draws, len(rows), generator=torch.Generator().manual_seed(0)).argsort(1)
    by_chance = alike[shuffled[:, :-1], shuffled[:, 1:]].mean(1)
    found = alike.diagonal(1).mean()
    return float(found - by_chance.mean()), float((by_chance >= found).double().mean())


def groups_of(populations: Sequence[Population]) -> list[Group]:
    """The populations, each grouped with those that it shares a loop or a module with.

    The groups are ordered so that each receives spikes only from itself and those before it.
    """
    reach = _reach(populations)
    remaining, ordered = list(range(len(populations))), list[Group]()
    while remaining:
        ready = next(i for i in remaining if not any(reach[j, i] and not reach[i, j] for j in remaining))
        group = [j for j in remaining if j == ready or (reach[ready, j] and reach[j, ready])]
        ordered.append(tuple(populations[j] for j in group))
        remaining = [j for j in remaining if j not in group]
    return ordered


def rests_quietly(xi: float | None) -> bool:
    """Whether the threshold is no farther than where an output starts: its silence is no fault."""
    return xi is not None and xi < 1.05 * QUIET


def hears_itself(group: Group) -> bool:
    """Whether spikes of the group return to it."""
    names = {p.name for p in group}
    return any(q.recurrent for p in group for q in p.pathways) or any(names & set(p.unweighted) for p in group)


def with_recurrence(populations: Sequence[Population]) -> list[Population]:
    """The populations, with pathways marked as recurrent if they come from the population's own group."""
    reach, names = _reach(populations), [p.name for p in populations]
    reached = [{name for name, there in zip(names, row, strict=True) if there} for row in reach]
    return [
        replace(
            p, pathways=tuple(replace(q, recurrent=q.recurrent or not far.isdisjoint(q.sources)) for q in p.pathways)
        )
        for p, far in zip(populations, reached, strict=True)
    ]


def _reach(populations: Sequence[Population]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Whether spikes of one population reach another, through any number of others."""
    index = {p.name: i for i, p in enumerate(populations)}
    reach = np.zeros((len(populations), len(populations)), dtype=bool)
    for i, p in enumerate(populations):
        for source in p.heard & index.keys():
            reach[index[source], i] = True
        for j, other in enumerate(populations):
            reach[i, j] |= i != j and other.module is p.module
    for k in range(len(populations)):
        reach |= np.outer(reach[:, k], reach[k])
    return reach
