"""What reaches the input of a neuron: a walk back through the autograd graph to the first modules with weights.

A product of two signals is read as one signal and a gate. A factor is a gate if every way back from it passes a bounded
function, such as the sigmoid of squeeze and excite. If no factor is bounded, spikes are the gate, else the factor that
is made by more products, or is smaller and broadcast against the other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import nn

from fluctua.network.errors import WiringError
from fluctua.network.trace_pass import PLUMBING, Node, TracedPass, behind, is_gain, operation_of, parents_of, signals_of

Norm = nn.Module | None

_PRODUCTS = ("Mul", "Bmm", "Mm", "Baddbmm", "Addmm")
_ATTENTION = "ScaledDotProduct"  # of query, key and value
_BOUNDED = ("Sigmoid", "Softmax", "Tanh", "Hardsigmoid", "Hardtanh", "Clamp")
_NORMALISING = "a division by something that depends on the weights"
_OFFSETTING = ("Add", "Sub", "Cat", "Stack")
_ADDING = ("Add", "Sub", "Sum", "Mean", "CopySlices")


@dataclass(frozen=True, eq=False)
class Reading:
    """How the output of a synapse reaches the input of a neuron, over all its calls."""

    via: tuple[str, ...] = ()  # operations in between, on one of the ways
    added: bool = False  # whether something is added on any
    sign: int = 1  # -1 if what it puts out is taken away, 0 if that differs
    norms: tuple[nn.Module, ...] = ()  # the last one on each way; none if a way has none
    nodes: frozenset[Node] = frozenset()  # that made the output
    sources: frozenset[nn.Module] = frozenset()  # emitters that feed the synapse
    through: dict[nn.Module, None] = field(default_factory=dict)  # modules with weights before the synapse

    def adds_to(self, before: "Reading") -> bool:
        """Whether it has the same output, of the same size, with something added on the way."""
        return self.added and bool(self.nodes & before.nodes) and set(self.norms) == set(before.norms)


@dataclass(frozen=True, eq=False)
class Afferents:
    """What reaches one input of a neuron's calls."""

    readings: dict[nn.Module, Reading]  # of each synapse
    direct: dict[nn.Module, None]  # emitters that reach it without a synapse
    gates: dict[nn.Module, set[nn.Module]]  # modules with weights that multiply it, and the emitters that feed them
    offset: bool = False  # whether loose parameters, or data without a weight, add to it


@dataclass
class _Hits:
    """The first stops of walks from one call, and what lies on the way."""

    ways: dict[Node, Reading] = field(default_factory=dict)
    norms: dict[Node, dict[Norm, None]] = field(default_factory=dict)  # the last norm on each way
    gates: dict[Node, None] = field(default_factory=dict)  # stops reached only through a gate
    offset: bool = False


def afferents_of(
    starts: list[Node | None], together: int, record: TracedPass, loose: dict[int, str], population: str
) -> Afferents:
    """Over all calls, `together` of them in each step; recurrent input shows from the second step on.

    Raises:
        WiringError: the weights differ between calls, or a weight is outside a layer.
    """
    found = Afferents({}, {}, {})
    last: set[nn.Module] | None = None
    for number in range(len(starts) // together):
        hits = _walk(starts[number * together : (number + 1) * together], record, loose, population)
        synapses = {record.synapse_of[node] for node in hits.ways if node in record.synapse_of}
        final = number == len(starts) // together - 1
        if last is not None and final and (synapses != last if number > 1 else not last <= synapses):
            raise WiringError(
                f"different weights feed the neuron {population} from one call to the next: give each population a "
                "module of its own, called once per time step"
            )
        last = synapses
        found = replace(found, offset=found.offset or hits.offset)
        for node in hits.ways:
            if node in record.synapse_of:
                synapse = record.synapse_of[node]
                found.readings[synapse] = _joined(found.readings.get(synapse), node, hits, record)
            else:
                found.direct[record.neuron_of[node]] = None
        for node in hits.gates:
            _note_gate(node, record, found)
    feeding = set(found.readings).union(*(reading.through for reading in found.readings.values()))
    for synapse in found.gates.keys() & feeding:
        del found.gates[synapse]
    return found


def _joined(before: Reading | None, node: Node, hits: _Hits, record: TracedPass) -> Reading:
    """A reading with one more call, or node, of the synapse."""
    sources, through = _upstream(node, record)
    norms = tuple(norm for norm in hits.norms[node] if norm is not None) if None not in hits.norms[node] else ()
    before = before or replace(hits.ways[node], norms=norms)
    return Reading(
        hits.ways[node].via,
        before.added or hits.ways[node].added,
        before.sign if before.sign == hits.ways[node].sign else 0,
        tuple(dict.fromkeys((*before.norms, *norms))) if before.norms and norms else (),
        before.nodes | {node},
        before.sources | sources,
        before.through | dict.fromkeys(through),
    )


def _note_gate(node: Node, record: TracedPass, found: Afferents) -> None:
    if node in record.neuron_of:
        found.direct[record.neuron_of[node]] = None
        return
    sources, through = _upstream(node, record)
    for module in (record.synapse_of[node], *through):
        found.gates.setdefault(module, set()).update(sources)


def _walk(made: list[Node | None], record: TracedPass, loose: dict[int, str], population: str) -> _Hits:
    """Walk back from nodes to the first stops; for each, the operations and the last norm on every way.

    What makes gains and offsets is not walked.
    """
    found = _Hits()
    seen: set[tuple[Node, Norm, bool, bool, int]] = set()
    pending: list[tuple[Node, tuple[str, ...], Norm, bool, bool, int]]
    pending = [(node, (), None, False, False, 1) for node in made]
    while pending:
        node, via, norm, gated, added, sign = pending.pop()
        if node is None or (node, norm, gated, added, sign) in seen:
            continue
        seen.add((node, norm, gated, added, sign))
        if node in record.synapse_of or node in record.neuron_of:
            if gated:
                found.gates[node] = None
            else:
                found.norms.setdefault(node, {})[norm] = None
                other = found.ways.get(node, Reading(sign=sign))
                found.ways[node] = Reading(via, added or other.added, sign if sign == other.sign else 0)
            continue
        norm = norm or record.norm_of.get(node)
        operation, parents = operation_of(node), parents_of(node)
        signals = signals_of(operation, parents, record)
        # Parameters are no signals, and what no parameter acts on, such as the batch itself, has no node.
        found.offset |= operation in _OFFSETTING and len(signals) < len(node.next_functions)
        if is_gain(node, via, record):
            found.offset = True
            continue
        for parent in signals:
            weight = loose.get(id(getattr(parent, "variable", None)))
            if weight is not None:
                error = WiringError(
                    f"the weight {weight} feeds {population} from outside a layer of its own, so its input "
                    "cannot be observed: apply it in a module that holds nothing else, such as nn.Linear"
                )
                error.weight = weight
                raise error
        if operation == "Div" and len(set(signals)) > 1:
            operation = _NORMALISING
        if not operation.startswith(PLUMBING):
            via = (operation, *via)
        gates = _gates_among(operation, signals, record)
        added |= operation.startswith(_ADDING)
        taken = parents if operation == "Neg" else [node.next_functions[1][0]] if operation == "Sub" else []
        pending.extend(
            (parent, via, norm, gated or parent in gates, added, -sign if parent in taken else sign)
            for parent in reversed(signals)
        )
    for node in found.ways:
        found.gates.pop(node, None)
    return found


def _gates_among(operation: str, signals: list[Node], record: TracedPass) -> list[Node]:
    """Which factors of a product are gates."""
    if operation.startswith(_ATTENTION):
        return signals[:2]
    if operation not in _PRODUCTS or len(set(signals)) < 2:
        return []
    stops = record.synapse_of.keys() | record.neuron_of.keys()
    ways = {node: list(behind([node], stops)) for node in signals}
    factors = [node for node, way in ways.items() if any(n in stops for n in way)]

    def rank(node: Node) -> tuple[bool, bool, int, int]:
        spikes = not any(n in record.synapse_of for n in ways[node])
        products = sum(operation_of(n) in _PRODUCTS for n in ways[node] if n not in stops)
        return _bounded(node, record), spikes, products, -_size(node)

    signal = min(factors, key=rank, default=None)
    return [node for node in factors if node is not signal]


def _bounded(node: Node, record: TracedPass) -> bool:
    """Whether every way back to the output of a module passes a bounded function."""
    pending, seen = [node], set()
    while pending:
        node = pending.pop()
        if node in record.synapse_of or node in record.neuron_of:
            return False
        if node not in seen and not operation_of(node).lstrip("_").startswith(_BOUNDED):
            seen.add(node)
            pending += parents_of(node)
    return True


def _size(node: Node) -> int:
    """Entries of what a node has made."""
    return max((math.prod(made.shape) for made in node._input_metadata), default=0)


def _upstream(synapse: Node, record: TracedPass) -> tuple[set[nn.Module], Iterable[nn.Module]]:
    """The neurons that feed a synapse, and the modules with weights in between."""
    neurons: set[nn.Module] = set()
    through: dict[nn.Module, None] = {}
    for node in behind(parents_of(synapse), record.neuron_of):
        if node in record.neuron_of:
            neurons.add(record.neuron_of[node])
        elif (module := record.synapse_of.get(node)) not in (None, record.synapse_of[synapse]):
            through[module] = None
    return neurons, through
