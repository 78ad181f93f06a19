"""The interface of a method, and `initialize`, which applies one to a network."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from importlib import import_module
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from fluctua.methods.components import SilentInputError
from fluctua.methods.population import adjustable, bent_by
from fluctua.methods.weights import affine, check_target, new_generator, writable
from fluctua.network.errors import Axis
from fluctua.network.facts import Population
from fluctua.network.network import QUIET, Group, Network
from fluctua.network.preserve import all_or_nothing
from fluctua.network.replay import Replay
from fluctua.network.run import Forward, hooked, modules_of, named_modules_of, named_parameters_of, parameters_of
from fluctua.state.measure import Measurements, Window, watch
from fluctua.state.report import Report
from fluctua.state.summary import listed, of_whom, report_of, short_batch_warnings
from fluctua.theory.target import Moments, Target

if TYPE_CHECKING:
    from fluctua.methods.surrogate import Wanted
    from fluctua.network.probe import ProbedNeuron

READOUT = Target(sigma=0.1)
OUTPUT = Target(xi=QUIET)
Targets = Mapping[str, Target]  # by name of the population
Reached = dict[str, Moments]


class Method(ABC):
    """A way to find weights; a frozen dataclass whose fields are its settings.

    Class attributes:
        aims: whether it brings populations to a target; otherwise it ignores targets.
        measures: whether it measures activity on the batch, which then must not be silent; otherwise the batch only
            shows the wiring.
    """

    aims: ClassVar[bool] = False
    measures: ClassVar[bool] = True

    def begin(self, network: Network, generator: torch.Generator) -> None:  # noqa: B027 - most have nothing to do
        """Run once before the first group, for the model as a whole, such as layers that feed no neuron."""

    @abstractmethod
    def solve(self, group: Group, targets: Targets, replay: Replay, generator: torch.Generator) -> Reached:
        """Find the weights into the populations of a group, and write them.

        Args:
            group: populations connected in a loop, or a single one; everything else that feeds them is final.
            targets: by name, of those whose weights are to be written; the others stay as they are.
            replay: passes of the network up to the group.
            generator: for all draws.
        """

    def serves(self, population: Population) -> bool:
        """Whether the method can set anything for a population."""
        return bool(writable(population))

    def end(self, network: Network) -> None:  # noqa: B027
        """Run once after the last group, for what is no weight, such as a surrogate that belongs to the method."""


_NAMED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "measured": ("measured.Measured", {}),
    "poisson": ("poisson.Poisson", {}),
    "kaiming": ("baselines.classic.Kaiming", {}),
    "kaiming-relu": ("baselines.classic.Kaiming", {"gain": sqrt(2)}),
    "kaiming-folded": ("baselines.classic.Kaiming", {"folded": True}),
    "xavier": ("baselines.classic.Xavier", {}),
    "torch": ("baselines.classic.TorchDefault", {}),
    "ding": ("baselines.spiking.Ding", {}),
    "micheli": ("baselines.spiking.Micheli", {}),
    "spikeinit": ("baselines.spikeinit.SpikeInit", {}),
    "spikeinit-sim": ("baselines.spikeinit.SpikeInit", {"simulated": True}),
    "tdbn": ("baselines.tdbn.TdBN", {}),
    "lsuv": ("baselines.classic.LSUV", {}),
    "ei-init": ("baselines.classic.EIInit", {}),
}
NAMES = tuple(_NAMED)
"""All methods by name."""


def method_of(method: Method | str, **options: Any) -> Method:
    """A method, or the one of that name, with some of its fields changed.

    Raises:
        ValueError: an unknown name, or a field that the method does not have.
    """
    if isinstance(method, str):
        if method not in _NAMED:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(NAMES)}")
        path, defaults = _NAMED[method]
        module, _, name = path.rpartition(".")
        found: Any = getattr(import_module(f"{__package__}.{module}"), name)(**defaults)
    elif isinstance(method, Method):
        found = method
    else:
        raise ValueError(f"a method is a value such as Measured(), or a name, got {method!r}: choose a name of {NAMES}")
    names = [field.name for field in fields(found)]
    if unknown := sorted(set(options) - set(names)):
        raise ValueError(f"{type(found).__name__} has no field {unknown[0]!r}: it has {', '.join(names) or 'none'}")
    chosen: Method = replace(found, **options) if options else found
    return chosen


@all_or_nothing
def initialize(
    model: nn.Module,
    batch: Any,
    target: Target | None = None,
    *,
    method: Method | str = "measured",
    readout: Target | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    surrogate: "Wanted" = None,
    populations: Collection[str] | None = None,
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    dt: float | None = None,
    neurons: "Mapping[type[nn.Module], ProbedNeuron] | None" = None,
    readouts: Collection[str] | None = None,
    **moved: Any,
) -> Report:
    """Put a spiking network into the fluctuation-driven regime, in place, and report the state it is in.

    Args:
        model: any model of known neurons, of any framework and on any device; its weights are overwritten.
        batch: input as in training, `[T, B, ...]` or what the model takes, of one to a few hundred samples. A
            `DataLoader`, `(x, y)`, NumPy arrays, integers and booleans work too: see `Network.of`.
        target: the wanted state of every spiking population. By default the mean is 0 and xi is 1, or 3 for an output:
            a population that hears others and whose spikes only leave the model. The random spikes of an output at
            xi = 1 disturb a loss that counts them.
        method: how the weights are found: a value of `fluctua.methods`, such as `Measured(balance=False)`, or its name.
            "measured" holds its target at any depth; "poisson" is the paper's formula; all others are baselines for
            comparison, which ignore targets.
        readout: the wanted state of populations without threshold (default: sigma = 0.1, from which a softmax starts
            undecided, or a tenth of the spread of y if the batch is `(x, y)` with values y that are no classes).
        seed: for the draws; default: drawn from torch's generator. The same seed gives the same weights.
        generator: for the draws, on the CPU, instead of a seed.
        surrogate: "share" makes the surrogates of spiking populations so sharp that a share of 0.4 of neurons and steps
            carries the gradient, whatever dt and xi. Networks of six layers and more learn better so, recurrent layers
            worse (`docs/depth.md`); the gradient grows towards the first layer: clip it under SGD. A number is the
            sharpness itself, in the framework's parameter. Surrogates change, the forward pass does not. None: neither.
        populations: names of those to initialise; default: all.
        forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called, or
            looped over time, as its neurons require.
        time: axis of the batch that is time, 0 or 1; None for a static input `[B, ...]`.
        steps: how many steps a static input is shown for; not needed if the model itself makes a sequence of it.
        dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
        neurons: facts about neuron classes that fluctua does not know.
        readouts: names of populations whose potential is read. A population also counts as a readout if its threshold
            is out of reach, or if it is the last and the model returns only its potential, or if it is the last and
            never resets; with `readouts=[]` only if it cannot spike at all.
        moved: fields of the method that were arguments of this call in version 0.1; deprecated.

    Returns:
        The state of every population after the call, with what was skipped and why.

    Raises:
        BatchError: an empty, all-zero, non-finite or misshapen batch.
        WiringError: no spiking neuron found, or a model that cannot be run or traced.
        UnsupportedNeuronError: no neuron whose potential is linear in its input; a single one that is not stays as it
            is, and a note says why.
        SilentInputError: a population that no activity reaches.
        NoFixedPointError: a recurrent population without a steady state near its target.
        InfeasibleTargetError: a target out of reach, naming the largest feasible `mu_u`.
        ValueError: an unknown method or population, an invalid `surrogate`, or a rate in Hz without a time step.

    After any error the model is as it was.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = initialize(model, x, Target(xi=2.0), seed=0)
        >>> print(f"{report['1'].sigma_u:.2f}")
        0.50
    """
    check_target(target, "target")
    check_target(readout, "readout")
    method = _with_moved(method, moved)
    if surrogate is not None:
        from fluctua.methods.surrogate import checked, set_surrogates  # only where they are to be set

        surrogate = checked(surrogate)
    network = Network.of(
        model,
        batch,
        forward=forward,
        time=time,
        steps=steps,
        dt=dt,
        neurons=neurons,
        readouts=readouts,
        active=method.measures,
    )
    draws = new_generator(seed, generator)
    chosen = network.chosen(populations)
    if readout is None:
        readout = READOUT if network.spread is None else Target(sigma=0.1 * network.spread)
    _check_unit(chosen, target or Target())
    wanted = {p.name: readout if p.neuron.threshold is None else target or Target() for p in chosen if method.serves(p)}
    quiet = [name for name in network.outputs if name in wanted] if method.aims and target is None else []
    wanted |= dict.fromkeys(quiet, OUTPUT)
    with _others_kept(network, None if populations is None else chosen):
        method.begin(network, draws)
    try:
        measured, reached, pretended = _solve(network, method, wanted, draws, drives=surrogate is not None)
    except SilentInputError as error:
        raise SilentInputError(". ".join([str(error), *(one.note for one in network.left)])) from error
    method.end(network)
    notes = [*network.notes, *_notes(chosen, method), *(_unreached(network) if method.aims else ())]
    notes += _bent(network, measured, reached)
    sharpened: list[str] = []
    if surrogate is not None:
        left, sharpened = set_surrogates(chosen, measured, surrogate)
        notes += left
    on_trunks: list[tuple[str, bool]] = []
    if any(q.trunk for p in network.populations for q in p.pathways):
        from fluctua.methods.trunk import told_of_trunks  # only membrane shortcuts need it

        on_trunks += told_of_trunks(network.populations, wanted, reached)
    notes += [told for told, far in on_trunks if not far]
    if quiet:
        notes.append(f"{', '.join(quiet)}: the model returns the spikes, so xi starts at 3; target=Target() sets 1")
    if target is not None and not method.aims:
        notes.insert(0, f"{type(method).__name__} has no target, so the one given was not used")
    doubts = [*_filled(pretended), *(told for told, far in on_trunks if far), *sharpened, *short_batch_warnings(chosen)]
    ran = _ran(method, None if generator is not None else draws.initial_seed())
    return report_of(network, measured, reached, {}, tuple(notes), tuple(doubts), ran=ran)


def _ran(method: Method, seed: int | None) -> Iterator[str]:
    """The method and its draws, for the head of the report."""
    yield f"window = {getattr(method, 'window', 'trial')}"
    given: Any = method
    chosen = [(f, repr(getattr(method, f.name))) for f in fields(given) if f.name != "window"]
    settings = ", ".join(f"{f.name}={value}" for f, value in chosen if value != repr(f.default))
    yield f"method = {type(method).__name__}({settings})"
    yield "seed = a generator's" if seed is None else f"seed = {seed}"


def _with_moved(method: Method | str, moved: Mapping[str, Any]) -> Method:
    """The method, with the fields that version 0.1 took as arguments of `initialize`."""
    if moved:
        found = method_of(method)
        if unknown := set(moved) - set(vars(found)):
            raise TypeError(f"initialize() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        given = ", ".join(f"{name}={value!r}" for name, value in moved.items())
        said = f"these are fields of the method now: method={type(found).__name__}({given})"
        warnings.warn(said, DeprecationWarning, stacklevel=5)
    return method_of(method, **moved)


def _solve(
    network: Network, method: Method, wanted: Mapping[str, Target], draws: torch.Generator, *, drives: bool
) -> tuple[dict[str, Measurements], dict[str, Moments], dict[str, tuple[str, ...]]]:
    """Group after group."""
    measured: dict[str, Measurements] = {}
    reached: dict[str, Moments] = {}
    seed = (draws.initial_seed() + 1) % 2**63  # for dropout: not the draws of the weights
    window: Window = getattr(method, "window", "trial")
    with ExitStack() as watching, network.replay(seed) as replay:
        for group in network.groups:
            reached |= method.solve(group, {p.name: wanted[p.name] for p in group if p.name in wanted}, replay, draws)
            for p in group:
                replay.done(p)
            for module in dict.fromkeys(p.module for p in group):  # in the next pass, which runs them
                within = [p for p in group if p.module is module]
                watching.enter_context(hooked(watch(within, window, measured, drives=drives)))
        replay.finish()
    return measured, reached, replay.pretended


@contextmanager
def _others_kept(network: Network, chosen: Collection[Population] | None) -> Iterator[None]:
    """Restore, at the end, parameters that lead to none of the chosen populations.

    Without a choice, restore those that lead only to neurons that are left as they are.
    """
    own: set[int] = set()
    for q in (q for p in (network.populations if chosen is None else chosen) for q in adjustable(p)):
        parts = (q.weight, q.bias, *affine(q, "weight"), *affine(q, "bias"))
        own |= {id(tensor) for tensor in parts if tensor is not None}
    left = {id(p) for one in network.left for module in (one.module, *one.synapses) for p in parameters_of(module)}
    others = [p for p in parameters_of(network.model) if id(p) not in own and (chosen is not None or id(p) in left)]
    kept = [p.detach().clone() for p in others]
    yield
    with torch.no_grad():
        for parameter, value in zip(others, kept, strict=True):
            parameter.copy_(value)


def _check_unit(populations: tuple[Population, ...], target: Target) -> None:
    """Refuse a rate in Hz for neurons that count time in steps."""
    unknown = [p.name for p in populations if p.neuron.in_steps]
    if target.rate is not None and unknown:
        raise ValueError(
            f"{unknown[0]} counts time in steps, so a rate of {target.rate:g} Hz means nothing to it: give "
            "dt=, the time step in seconds"
        )


def _notes(chosen: tuple[Population, ...], method: Method) -> Iterator[str]:
    for note, names in of_whom((p.neuron.note, p.name) for p in chosen).items():
        yield f"{names}: {note}"
    skipped: list[tuple[str | None, str]] = [("no weight matrix feeds it", p.name) for p in chosen if not p.pathways]
    skipped += [(q.skipped_because, q.name) for p in chosen for q in p.pathways if q.trunk is None]
    for reason, names in of_whom(skipped).items():
        yield f"{names} {'were' if ', ' in names else 'was'} skipped: {reason}"
    for q in (q for p in chosen for q in p.pathways if q.note is not None):
        yield f"{q.name}: {q.note}"
    gates = {gate.name: p.name for p in reversed(chosen) for gate in p.gates}
    for gated, names in of_whom((p, name) for name, p in gates.items()).items():
        yield f"the gate of the current into {gated} was left as it is, and the current measured behind it: {names}"
    free = [q for p in chosen for q in p.pathways if q.skipped_because is None or q.shifts]
    biases = [q for q in free if q.bias is not None] if method.aims else []
    moved = [q.name for q in biases if q.bias is not None and bool(q.bias.any())]
    if moved:
        yield f"the bias that goes with {', '.join(moved)} was set to bring mu_u to its target"
    if len(moved) < len(biases):
        yield f"{len(biases) - len(moved)} bias(es) were set to zero"


def _filled(pretended: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for sources, names in of_whom((", ".join(sources), name) for name, sources in pretended.items()).items():
        yield (
            f"no spike of {sources} reaches {names} on this batch, and no weight can change that: the weights into "
            f"{names} assume spikes at the rate that the theory predicts"
        )


def _bent(network: Network, measured: Mapping[str, Measurements], reached: Mapping[str, Moments]) -> Iterator[str]:
    """A note on each population that misses its target because its potential is not linear in its weights."""
    for p in network.populations:
        bent = bent_by(p) if p.name in reached and measured[p.name].distance(reached[p.name]) > 0.1 else []
        if bent:
            yield f"{p.name} misses its target because its potential is not linear in its weights: {listed(bent)}"


def _unreached(network: Network) -> Iterator[str]:
    """Layers whose weights lead to no population: readouts, or layers that feed unknown neurons."""
    pathways = [(p.name, q) for p in network.populations for q in p.pathways]
    synapses = {q.synapse for _, q in pathways}
    before = {m: (name, q.name) for name, q in pathways for m in q.through if m not in synapses}
    owners = [*(p.module for p in network.populations), *synapses, *before]
    owners += [gate.synapse for p in network.populations for gate in p.gates]
    owners += [owner for one in network.left for owner in (one.module, *one.synapses)]
    known = {module for owner in owners for module in modules_of(owner)}
    layers = nn.Linear | nn.modules.conv._ConvNd
    names = {module: name for name, module in named_modules_of(network.model)}
    for module, (population, weight) in before.items():
        called = names.get(module) or ", ".join(dict(named_parameters_of(module)))  # those of no layer
        yield (
            f"{called} was skipped: it acts on {population} through {weight}, which is nearer; "
            "if an unknown neuron is between the two, neurons= can name it"
        )
    if others := [name for module, name in names.items() if isinstance(module, layers) and module not in known]:
        verb, was = ("feeds", "was") if len(others) == 1 else ("feed", "were")
        yield f"{', '.join(others)} {verb} no known neuron and {was} skipped; neurons= can name an unknown one"
