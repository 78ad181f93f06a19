"""What the parameters of a layer of a user's own do, by what its output is linear in.

Names and shapes do not tell a weight from a delay, a scale of noise or a factor of another weight, nor which axis of it
counts output units. So the layer is run a few times on random input of the shape that it gets in the model, its
parameters moved one by one: a weight is what the output is linear in, connects several inputs to a unit, and is not
noise.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fluctua.network.run import gpus_of, mapped, named_parameters_of, parameters_of, preserved, tensors_in
from fluctua.network.trace_pass import TracedPass

Values = dict[str, Tensor]  # of parameters, by name
Run = Callable[..., Tensor]  # values other than at first, number of the input, seed -> the output, flat

_EXACT = 1e-3  # of a change: float32 and half precision are linear to that
_NEARLY = 0.1  # of the output: what rounds its weights scales with them to that
_PROBED = 4  # outputs of which it is looked up what they depend on


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter that connects inputs to output units.

    Attributes:
        name: attribute of the layer.
        rows: axis that counts output units.
        mask: 1 where an entry has an effect, 0 where it has none; None where all have.
        skipped_because: why it is not to be written, or None.
    """

    name: str
    rows: int = 0
    mask: Tensor | None = None
    skipped_because: str | None = None


@dataclass(frozen=True)
class Roles:
    """The parameters of a layer by what they do.

    Attributes:
        weights: what connects; none where the layer only scales and shifts.
        bias: name of what shifts each output unit, or None.
        offset: whether something else adds to the output that is neither weight nor bias.
        note: which parameters were left as they are, and why, or None.
    """

    weights: tuple[Weight, ...]
    bias: str | None = None
    offset: bool = False
    note: str | None = None


@dataclass(frozen=True, eq=False)
class _Effect:
    """What one parameter does to the output.

    Attributes:
        name: of the parameter.
        change: of the output where the parameter is moved, flat.
        linear: whether twice the move makes twice the change.
        scales: 1 where twice the parameter makes twice the output, nearly, in a layer that is as linear in its input; 0
            where it makes no difference; else None.
        of_input: whether the change depends on the layer's input.
        random: whether the change depends on the draws of torch's generator.
        single: whether each output depends on one entry of it.
        rows: axis along which an output depends on one index, or None.
        mask: see `Weight`.
    """

    name: str
    change: Tensor
    linear: bool
    scales: int | None
    of_input: bool
    random: bool
    single: bool
    rows: int | None
    mask: Tensor | None


def roles_in(record: TracedPass, trainable: Collection[int]) -> dict[nn.Module, Roles]:
    """What the parameters of the layers of the user's own do; a layer that connects nothing is no synapse any more.

    Args:
        record: of a pass, in which such layers are then no synapses.
        trainable: ids of the parameters that may be written.
    """
    found: dict[nn.Module, Roles] = {}
    for module, (args, kwargs) in record.inputs.items():
        frozen = [name for name, p in named_parameters_of(module, False) if id(p) not in trainable]
        with suppress(Exception):  # of a stranger's code, which may not take any input: then names must do
            found[module] = roles_of(module, args, kwargs, frozen)
    idle = {module for module, roles in found.items() if not roles.weights}
    record.no_weights |= {id(p) for module in idle for p in parameters_of(module, False)}
    record.synapse_of = {node: module for node, module in record.synapse_of.items() if module not in idle}
    return {module: roles for module, roles in found.items() if roles.weights}


def roles_of(module: nn.Module, args: Any, kwargs: Any, frozen: Collection[str]) -> Roles:
    """What the parameters of a layer do, found by running it; it is afterwards as it was.

    Args:
        module: a layer with parameters of its own.
        args: what it was called with in the model.
        kwargs: likewise, by name.
        frozen: names of its parameters that are not trained.
    """
    parameters = named_parameters_of(module, False)
    own = {name: _start(p) for name, p in parameters if p.is_floating_point() and p.numel()}
    with preserved(module), torch.no_grad():
        run = _runner(module, args, kwargs, own)
        passing = _near(run({}, 2) - run({}, 3), 2 * (run({}) - run({}, 3)), _NEARLY)
        found = [e for name in own if (e := _effect(run, own, name, passing)) is not None]
        connecting = [e for e in found if not e.single and own[e.name].ndim > 1]
        if not connecting and len(run({})) > sum(x.numel() for x in tensors_in((args, kwargs))):  # of one input each
            connecting = [e for e in found if e.linear and e.of_input and own[e.name].ndim > 1]
        kept, left = _chosen(run, own, connecting, frozen)
    shifts = [e for e in found if e.single and e.linear and not e.of_input and not e.random]
    units = {own[w.name].shape[w.rows] for w in kept}
    bias = next((e.name for e in shifts if own[e.name].numel() in units), None)
    if connecting and not kept:
        first = connecting[0]
        kept = [Weight(first.name, first.rows or 0, skipped_because=left.pop(first.name))]
    notes = [f"{name} was left as it is, for {reason}" for name, reason in left.items()]
    return Roles(tuple(kept), bias, len(shifts) > (bias is not None), "; ".join(notes) or None)


def _start(p: nn.Parameter) -> Tensor:
    """A parameter; other values for a weight that is zero at first, beside which others have no effect."""
    value = p.detach()
    if value.ndim < 2 or bool(value.any()):
        return value
    return 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)


def _runner(module: nn.Module, args: Any, kwargs: Any, start: Values) -> Run:
    """The layer as a function of its parameters, on two random inputs without zeros, twice the first, and zero."""
    generator = torch.Generator().manual_seed(0)

    def drawn(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return (0.1 + torch.rand(x.shape, generator=generator)).to(x)

    def times(x: Tensor, factor: float) -> Tensor:
        return factor * x if x.is_floating_point() else x

    inputs = [mapped((tuple(args), dict(kwargs)), drawn) for _ in range(2)]
    inputs += [mapped(inputs[0], partial(times, factor=factor)) for factor in (2.0, 0.0)]
    gpus = gpus_of(module)

    def run(values: Values, number: int = 0, seed: int = 0) -> Tensor:
        with torch.random.fork_rng(gpus):
            torch.manual_seed(seed)
            output = functional_call(module, start | values, *inputs[number])
        return torch.cat([y.flatten() for y in tensors_in(output) if y.is_floating_point()][:1])

    return run


def _moved(own: Values, name: str, factor: float = 1.0) -> Values:
    """The parameter moved by as much as it is large, in a direction of its own."""
    p = own[name]
    generator = torch.Generator().manual_seed(1)
    size = float(p.double().square().mean().sqrt()) or 0.1
    return {name: p + factor * size * torch.randn(p.shape, generator=generator).to(p)}


@torch.no_grad()
def _effect(run: Run, own: Values, name: str, passing: bool) -> _Effect | None:
    """What a parameter does, None if nothing; `passing` tells whether the layer is linear in its input, nearly."""
    base, one, two = run({}), _moved(own, name), _moved(own, name, 2.0)
    change, twice = run(one) - base, run(two) - base
    if not bool((change.abs() > 1e-6 * base.abs().max()).any()):
        return None
    elsewhere = run(one, 1) - run({}, 1)
    redrawn = run(one, 0, 1) - run({}, 0, 1)
    single, rows, mask = _dependence(run, own[name], name)
    without = run({name: torch.zeros_like(own[name])})
    here, double = run(one), run({name: 2 * one[name]})
    scales = 1 if _near(double - without, 2 * (here - without), _NEARLY) and passing else None
    scales = 0 if _near(double, here, _EXACT) else scales
    return _Effect(
        name,
        change,
        _near(twice, 2 * change, _EXACT),
        scales,
        not _near(elsewhere, change, _EXACT),
        not _near(redrawn, change, _EXACT),
        single,
        rows,
        mask,
    )


def _near(x: Tensor, y: Tensor, tolerance: float) -> bool:
    return bool((x - y).double().norm() <= tolerance * y.double().norm())


def _dependence(run: Run, p: Tensor, name: str) -> tuple[bool, int | None, Tensor | None]:
    """Whether each output depends on one entry, the axis of which it sees one index, and which entries act at all."""
    with torch.enable_grad():
        value = p.detach().clone().requires_grad_()
        output = run({name: value})
        ends = [output[k * len(output) // _PROBED + len(output) // (2 * _PROBED)] for k in range(_PROBED)]
        weighted = output * torch.linspace(1, 2, len(output)).to(output)
        *seen, acting = [
            torch.autograd.grad(end, value, retain_graph=True, allow_unused=True)[0] for end in (*ends, weighted.sum())
        ]
    touched = [g != 0 for g in seen if g is not None]
    if not touched or acting is None:
        return True, None, None
    most = max(touched, key=lambda t: int(t.sum()))
    indices = [int(most.transpose(0, k).flatten(1).any(1).sum()) for k in range(p.ndim)] if p.ndim > 1 else []
    axes = [k for k, count in enumerate(indices) if count == 1]
    rows = next((k for k in axes if p.shape[k] > 1), axes[0] if axes else None)
    alive = acting != 0
    return int(most.sum()) <= 1, rows, None if bool(alive.all()) else alive


def _chosen(
    run: Run, own: Values, connecting: list[_Effect], frozen: Collection[str]
) -> tuple[list[Weight], dict[str, str]]:
    """The weights among parameters that connect, and why others were left."""
    left: dict[str, str] = {}
    linear = any(e.linear for e in connecting)
    for e in connecting:
        if e.scales == 0:
            left[e.name] = "its size has no effect on the output"
        elif not e.linear and (linear or e.scales is None):
            left[e.name] = "the output is not linear in it"
    kept, factors = list[_Effect](), set[str]()
    for e in sorted(connecting, key=lambda e: e.rows is None):  # what counts output units comes first
        if e.name in left:
            continue
        partner = next((other for other in kept if _multiply(run, own, e, other)), None)
        if partner is None:
            kept.append(e)
        else:
            left[e.name] = f"it is multiplied with {partner.name}"
            factors.add(partner.name)
    certain = any(not e.random for e in kept)
    held = [e.name for e in kept if e.name in frozen]
    weights = []
    for e in kept:
        weight = Weight(e.name, e.rows or 0, e.mask)
        if e.random and certain:
            weight = replace(weight, skipped_because="it scales noise")
        elif held and e.name in factors and e.name not in frozen:
            weight = replace(weight, skipped_because=f"it adapts {held[0]}, which is frozen")
        weights.append(weight)
    return weights, left


@torch.no_grad()
def _multiply(run: Run, own: Values, e: _Effect, other: _Effect) -> bool:
    """Whether the output depends on the product of two parameters."""
    first, second = _moved(own, e.name), _moved(own, other.name)
    base = run(second) - run({})
    return not _near(run(first | second) - run(first), base, _EXACT)
