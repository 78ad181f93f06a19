"""From a model and a batch to its populations, by hooks and the autograd graph.

One forward pass runs with gradients on. Hooks record the autograd node of every tensor that a neuron or a synapse
(a module that owns a weight and contains no other layers) puts out. A walk back from each neuron's input current then
stops at the first of these: they feed the neuron, whatever lies between (pooling, flatten, dropout, norms, additions).
A weight found outside such a module is refused, since its input cannot be observed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from fluctua.network import trace_pass
from fluctua.network.adapters.registry import KnownNeurons, Specs, prepare, transposed
from fluctua.network.afferents import Afferents, Reading, afferents_of
from fluctua.network.errors import UnsupportedNeuronError, WiringError
from fluctua.network.facts import FAR, INPUT, Pathway, Population, PopulationSpec
from fluctua.network.preserve import only_requiring_grad, preserved
from fluctua.network.run import Forward, hooked, modules_of, named_modules_of, parameters_of
from fluctua.network.trace_pass import Neurons, TracedPass, computing, parametrised, sets_size, weight_names

if TYPE_CHECKING:
    from fluctua.network.roles import Roles


@dataclass(frozen=True, eq=False)
class Left:
    """A known neuron module that cannot be served: it stays as it is, and only sends its spikes."""

    name: str
    module: nn.Module
    reason: str  # and what to do
    synapses: tuple[nn.Module, ...]  # modules whose weights feed it
    weights: tuple[str, ...]  # their names

    @property
    def note(self) -> str:
        """A note for the user."""
        fed = f", fed by {', '.join(self.weights)} as before" if self.weights else ""
        return f"{self.name} was left as it is{fed}: {self.reason}"


def trace(
    model: nn.Module, batch: Any, forward: Forward, known: KnownNeurons
) -> tuple[tuple[Population, ...], tuple[Left, ...]]:
    """The populations of `model` in the order in which they run, each with its afferent pathways, and the neurons left.

    The model is not changed. Neurons that the pass does not reach are no populations, and anything behind a `detach()`
    is invisible. A known neuron that cannot be served is a source of spikes for what follows.

    Args:
        model: any model of known neurons.
        batch: its input.
        forward: runs all time steps.
        known: the known neurons.

    Raises:
        WiringError: no known neuron in the model or none reached, a neuron called twice in one pass or time step, a
            model that runs without gradients or changes its input in place, a lazy module that has not run yet, or a
            weight that acts outside a module of its own.
        UnsupportedNeuronError: no neuron can be served.
    """
    names = {module: name or "model" for name, module in named_modules_of(model)}
    lazy = [names[m] for m in names if any(map(is_lazy, (*parameters_of(m, False), *m.buffers(False))))]
    if lazy:
        raise WiringError(f"lazy layers have no weights yet ({', '.join(lazy)}): run the model once on a batch first")
    if any(p.is_inference() for p in parameters_of(model)):
        raise WiringError(
            "the model was built under torch.inference_mode(), so its weights cannot be changed: build it anew, or "
            "load its state_dict into a model that was built outside"
        )
    scripted = {m: names[m] for m in names if isinstance(m, torch.jit.ScriptModule)}
    neurons = {module: known.specs(module) for module in known.served_in(model)}
    refused = known.refused_in(model)
    if not neurons:
        own = (m for m in modules_of(model) if not list(m.children()) or not type(m).__module__.startswith("torch."))
        kinds = sorted({type(m).__name__ for m in own})
        raise WiringError(
            f"no spiking neuron found in the model: none of its modules ({', '.join(kinds)}) is known; name yours with "
            "neurons={MyNeuron: fluctua.network.ProbedNeuron(...)}; weights of loops without modules are set by "
            "fluctua.measured_"
            + "; initialise what torch.jit compiles before, then load its state_dict"
            * bool(scripted)
        )
    trainable = {id(p) for p in parameters_of(model) if p.requires_grad}
    bare = forward.found(model, batch) if hasattr(forward, "found") else {}
    whole = set[nn.Module](scripted) - {inner for m in scripted for inner in m.children()}  # none can look inside

    def traced() -> tuple[list[Population], tuple[Left, ...]]:
        anew = set[nn.Module]()
        with hooked(_going_on(neurons, known, anew)):
            record = trace_pass.observe(model, batch, forward, neurons, refused, whole, bare)
        roles = {}
        if record.inputs:
            from fluctua.network.roles import roles_in  # not needed for networks of common layers

            roles = roles_in(record, trainable)
        told = {module: _told(module, record, known) for module in record.currents}
        loose = trace_pass.loose_weights(trace_pass.inside_of([*neurons, *refused]), names, record.no_weights)
        called = _population_names(neurons, names) | {module: names[module] for module in refused}
        seen = trace_pass.shown(record), trace_pass.shown(record, record.synapse_of)
        reader = _Reader(record, neurons | told, names | bare, trainable, loose, called, {}, *seen, roles)
        found = [reader.population(module, spec) for module in told for spec in told[module].values()]
        for module in anew:
            raise WiringError(
                f"the neuron {names[module]} begins anew from rest within one pass, which is then no single trial: if "
                "it should remember, pass it the state that its last call returned; if the pass runs several trials, "
                "let forward= run one of them"
            )
        return found, tuple(reader.left(module, str(refused[module])) for module in record.left)

    with preserved(model, prepare), only_requiring_grad(parameters_of(model), None):
        for _ in names:
            try:
                found, left = traced()
                break
            except WiringError as error:  # a layer that contains others, such as attention, counts as one
                owner = next((m for m in names if names[m] == (error.weight or "").rpartition(".")[0]), model)
                if owner in whole or not {*neurons, *refused}.isdisjoint(modules_of(owner)):
                    raise
                whole.add(owner)
        if filters := _filters(found):
            neurons = {module: specs for module, specs in neurons.items() if module not in filters}
            found, left = traced()
    if known.readouts is None and not any(map(_may_be_readout, found)):
        return tuple(found), left
    from fluctua.network.readouts import with_readouts

    return tuple(with_readouts(found, known.readouts)), left


def _going_on(neurons: Neurons, known: KnownNeurons, anew: set[nn.Module]) -> list[RemovableHandle]:
    """Hooks that add to a set the neurons that take single steps and begin anew within one pass.

    Such a neuron begins a step with a state that is the same for all neurons, and not the one that it was left in.
    """
    left: dict[nn.Module, list[Tensor]] = {}

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        (x, *states), named = (
            (args, kwargs) if args else ([*kwargs.values()][:1] or [None], dict([*kwargs.items()][1:]))
        )
        with suppress(UnsupportedNeuronError):  # where it keeps its state is not known
            if module not in left or not isinstance(x, Tensor):
                return
            begun = [torch.as_tensor(part).detach() for part in known.begins_with(module, x, tuple(states), named)]
            levels = [float(part.flatten()[0]) if part.numel() else 0.0 for part in begun]
            level = all(bool((part == one).all()) for part, one in zip(begun, levels, strict=True))
            as_left = all(bool((now == one).all()) for now, one in zip(left[module], levels, strict=False))
            if level and not as_left:
                anew.add(module)

    def after(module: Any, args: Any, output: Any) -> None:
        with suppress(UnsupportedNeuronError):
            left[module] = [torch.as_tensor(part).detach().clone() for part in known.left_by(module, output)]

    stepwise = [m for m, specs in neurons.items() if any(spec.layout.stepwise for spec in specs.values())]
    hooks = [m.register_forward_pre_hook(before, with_kwargs=True) for m in stepwise]
    return [*hooks, *(m.register_forward_hook(after) for m in stepwise)]


def _told(module: nn.Module, record: TracedPass, known: KnownNeurons) -> Specs:
    """The populations of a module, for a trial of the observed length."""
    specs = known.specs(module, record.steps[module])
    if not known.is_derived(module):
        return specs
    from fluctua.network.readouts import as_returned

    return as_returned(module, specs, record.first[module], known)


def _may_be_readout(p: Population) -> bool:
    theta = p.neuron.threshold
    return theta is not None and (theta >= FAR or p.shown == {"potential"} or not p.neuron.resets)


def _filters(found: list[Population]) -> set[nn.Module]:
    """False readouts: their output is, without a weight in between, the current of a spiking neuron."""
    direct = {name for p in found if p.neuron.threshold is not None for name in p.unweighted}
    readouts = [p for p in found if p.neuron.threshold is None and p.name in direct and p.emitter is p.module]
    return {p.module for p in readouts if not any(q.inner for q in p.pathways)}


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads populations from what was seen."""

    record: TracedPass
    neurons: Neurons
    names: dict[nn.Module, str]
    trainable: set[int]
    loose: dict[int, str]
    called: dict[nn.Module, str]
    taken: dict[int, tuple[str, Reading]]
    shown: dict[nn.Module, set[str]]
    unweighted: dict[nn.Module, set[str]]
    roles: "dict[nn.Module, Roles]"

    def left(self, module: nn.Module, reason: str) -> Left:
        """A neuron that cannot be served, with the weights that feed it."""
        stops = self.record.synapse_of.keys() | self.record.neuron_of.keys()
        before = trace_pass.behind(self.record.left[module], stops)
        synapses = dict.fromkeys(self.record.synapse_of[node] for node in before if node in self.record.synapse_of)
        weights = [self._path(m, name) for m in synapses for name in weight_names(m, self.record.no_weights)]
        return Left(self.names[module], module, reason, tuple(synapses), tuple(weights))

    def population(self, module: nn.Module, spec: PopulationSpec) -> Population:
        """A population of a module that has run, with what feeds it."""
        name = self.called[spec.emitter]
        reaching = [(port, self._afferents(module, argument, name)) for port, argument in enumerate(spec.arguments)]
        outer = [q for port, afferents in reaching for q in self._outer(port, afferents, name)]
        inner = [q for draft in spec.inner for q in self._inner(module, draft, name)]
        direct = {self.called[emitter] for _, afferents in reaching for emitter in afferents.direct}
        return Population(
            name,
            module,
            spec.neuron,
            (*_opposing(outer), *inner),
            tuple(sorted(direct)),
            spec.emitter,
            spec.arguments,
            spec.layout,
            len(self.record.currents[module]),
            self.record.steps[module],
            self.record.samples[module],
            frozenset(self.shown.get(module, ())) if spec.emitter is module else frozenset(),
            any(a.offset or any(s in self.roles and self.roles[s].offset for s in a.readings) for _, a in reaching),
            tuple(gate for _, afferents in reaching for gate in self._gates(afferents)),
            spec.most,
            spec.emitter is module and "spikes" in self.unweighted.get(module, ()),
        )

    def _afferents(self, module: nn.Module, argument: int | None, population: str) -> Afferents:
        calls = self.record.currents[module]
        starts = [made[argument] if argument is not None and argument < len(made) else None for made in calls]
        together = trace_pass.calls_per_step(self.record, module, self.neurons)
        return afferents_of(starts, together, self.record, self.loose, population)

    def _outer(self, port: int, afferents: Afferents, population: str) -> Iterator[Pathway]:
        """The pathways into an input current of the module's call."""
        for synapse, reading in afferents.readings.items():
            sources, through, rows = self._origin(reading.sources), tuple(reading.through), transposed(synapse)
            draft = Pathway("", synapse, "", sources, reading.via, reading.norms, through=through, port=port, rows=rows)
            yield from self._pathways(draft, population, reading)

    def _gates(self, afferents: Afferents) -> Iterator[Pathway]:
        for synapse, sources in afferents.gates.items():
            for name in weight_names(synapse, self.record.no_weights):
                yield Pathway(self._path(synapse, name), synapse, name, self._origin(sources))

    def _path(self, synapse: nn.Module, parameter: str) -> str:
        """Name of a parameter in the model."""
        return f"{self.names[synapse]}.{parameter}".lstrip(".")

    def _inner(self, module: nn.Module, draft: Pathway, population: str) -> Iterator[Pathway]:
        """The pathways of a synapse inside the neuron module, as its adapter describes it."""
        through: tuple[nn.Module, ...] = ()
        if draft.argument is None:
            sources = self._origin({self.neurons[module][draft.sources[0]].emitter})
        else:
            came = self._afferents(module, draft.argument, population)
            sources = self._origin(set(came.direct).union(*(r.sources for r in came.readings.values())))
            through = tuple(came.readings)
        owner = draft.synapse if draft.parameter else _owner(draft.synapse, self.names, population)
        itself = draft.argument is None
        draft = replace(draft, synapse=owner, sources=sources, through=through, recurrent=itself)
        yield from self._pathways(draft, population, Reading(sign=0))

    def _pathways(self, draft: Pathway, population: str, reading: Reading) -> Iterator[Pathway]:
        """One for each weight of a synapse, or for the one that the draft names; the draft says the rest."""
        synapse, found = draft.synapse, list[tuple[str, str | None, dict[str, Any]]]()
        if draft.parameter or synapse not in self.roles:
            for name in [draft.parameter] if draft.parameter else weight_names(synapse, self.record.no_weights):
                found.append((name, None, {"bias_name": name.replace("weight", "bias") if "weight" in name else None}))
        else:
            roles = self.roles[synapse]
            both: dict[str, Any] = {"bias_name": roles.bias or getattr(synapse, "added", None), "note": roles.note}
            normed = bool(draft.norms)  # its gain sets the size
            if roles.gain is not None and not normed:
                draft = replace(draft, norms=(roles.as_norm(synapse),))  # in whose gain and offset the output is linear
            for w in roles.weights:
                shifts = w.shifts and w.skipped_because is not None
                signs = None if w.signs is None or not reading.sign else reading.sign * w.signs
                facts = {"rows": w.rows or 0, "mask": w.mask, "linear": w.linear, "carries": w.linear or w.scales}
                facts |= {"shifts": shifts, "signs": signs, **both}
                found.append((w.name, None if normed and w.sizeless else w.skipped_because, facts))
        for name, skipped, told in found:
            weight, computed = attrgetter(name)(synapse), name in parametrised(synapse)
            here = population, reading
            first, before = here if computed else self.taken.setdefault(id(weight), here)
            other = None if first == population else first
            trunk = first if other is not None and reading.adds_to(before) else None
            reason = skipped or self._why_skipped_because(weight, computed, other)
            gains = [id(p) for norm in draft.norms for p in parameters_of(norm)]
            frozen = not {*gains} <= self.trainable
            if settles := frozen or bool(draft.norms and not gains):  # no gain answers for the size
                kind = "frozen norm" if frozen else "norm without gain"
                reason = reason or (f"a {kind} behind it sets its size" if any(map(sets_size, draft.norms)) else None)
            owners = {self.taken.setdefault(gain, (population, Reading()))[0] for gain in gains}
            if shared := next(iter(owners - {population}), None):
                reason = reason or f"its norm is shared with {shared}, for which it was initialised"
            told |= {"skipped_because": reason, "trunk": trunk, "normed": bool(gains) and not (shared or frozen)}
            told |= {"norms": ()} if settles else {}
            yield replace(draft, name=self._path(synapse, name), parameter=name, **told)

    def _why_skipped_because(self, weight: Any, computed: bool, other: str | None) -> str | None:
        """Why the weight must not be written, else None; `other` is the population that has it already."""
        if computed:
            return "parametrised: initialise it before parametrising it"
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            return "no weight matrix"
        if other is not None:
            return f"shared with {other}, for which it was initialised"
        frozen = isinstance(weight, nn.Parameter) and id(weight) not in self.trainable  # others nobody can freeze
        return "frozen (requires_grad=False)" if frozen else None

    def _origin(self, emitters: Collection[nn.Module]) -> tuple[str, ...]:
        return tuple(sorted(self.called[emitter] for emitter in emitters)) or (INPUT,)


def _opposing(pathways: Sequence[Pathway]) -> list[Pathway]:
    """Weights that act by their size obey Dale's law where each neuron is excited and inhibited."""
    signed = [(q.signs, q.rows) for q in pathways if q.signs is not None and q.skipped_because is None]

    def reached(sign: int) -> bool:
        rows = [(signs == sign).transpose(0, axis).flatten(1).any(1) for signs, axis in signed]
        return len({len(r) for r in rows}) == 1 and bool(torch.stack(rows).any(0).all())

    obeyed = reached(1) and reached(-1)
    return [q if q.signs is None else replace(q, linear=True) if obeyed else replace(q, signs=None) for q in pathways]


def _owner(synapse: nn.Module, names: Mapping[nn.Module, str], population: str) -> nn.Module:
    """The module that owns the weights of a recurrent synapse: itself, or the only child with weights."""
    owners = [module for module in modules_of(synapse) if module not in computing(synapse) and weight_names(module)]
    if len(owners) != 1:
        raise WiringError(
            f"the recurrent synapse {names[synapse]} into {population} has {len(owners)} layers with weights, it needs "
            "one, such as nn.Linear"
        )
    return owners[0]


def _population_names(neurons: Neurons, names: dict[nn.Module, str]) -> dict[nn.Module, str]:
    """Name of each population by its emitter: that of the module, or of the one among several in it."""
    return {
        spec.emitter: names[module] if len(specs) == 1 else f"{names[module]}.{name}"
        for module, specs in neurons.items()
        for name, spec in specs.items()
    }
