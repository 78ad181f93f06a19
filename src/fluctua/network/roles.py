"""What the parameters of a user's own layer do, by what its output is linear in.

Names and shapes do not tell a weight from a delay, a scale of noise or a factor of another weight, nor which axis of it
counts output units. So the layer is run a few times on random input of the shape that it gets in the model, with its
parameters moved one by one: a weight is a parameter that the output is linear in, that connects several inputs to a
unit, and that is not noise.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fluctua.network.preserve import gpus_of, preserved, seed_torch
from fluctua.network.run import mapped, named_parameters_of, parameters_of, tensors_in
from fluctua.network.trace_pass import TracedPass, parametrised

Values = dict[str, Tensor]  # of parameters, by name
Run = Callable[..., Tensor]  # changed values, index of the input, seed -> the output, flat

_EXACT = 1e-3  # of a change: float32 and half precision are linear to that
_LITTLE = 1e-6  # in place of zero, by the largest of which weights may be divided
_NEARLY = 0.1  # of the output: what rounds its weights, or bounds them, comes or changes by more
_DEEP = 30.0  # below which a softplus is nothing
_PROBED = 4  # outputs of which it is looked up what they depend on


@dataclass(frozen=True, eq=False)
class Role:
    """What one parameter does to the output of its layer."""

    name: str
    rows: int | None  # axis along which an output depends on one index: it counts output units
    mask: Tensor | None  # 1 where an entry has an effect, else 0; None if all have
    linear: bool  # whether twice the move makes twice the change
    scales: bool  # whether twice the parameter makes twice the output, nearly, in a layer as linear in its input
    grows: bool  # whether twice the parameter makes a larger output, and nearly none next to none, of a linear layer
    signs: Tensor | None  # if sizes or positive parts count: 1 where more makes more output, -1 where less, else 0
    shifts: bool  # whether one more in every entry makes a larger output, and far less nearly none: exp, softplus
    sizeless: bool  # whether twice the parameter makes no difference
    of_input: bool  # whether its effect depends on the layer's input
    random: bool  # whether its effect depends on the draws of torch's generator
    single: bool  # whether each output depends on one entry of it
    skipped_because: str | None = None  # why it must not be written


@dataclass(frozen=True)
class Roles:
    """The parameters of a layer by what they do."""

    weights: tuple[Role, ...]  # what connects; none where the layer only scales and shifts
    bias: str | None = None  # name of what shifts each output unit
    gain: str | None = None  # of what scales each, where the size of the weights has no effect
    offset: bool = False  # whether something else adds to the output
    note: str | None = None  # which parameters were left as they are, and why

    def as_norm(self, module: nn.Module) -> nn.Module:
        """Gain and bias under the names of torch's norms."""
        norm = nn.Module()
        for name, own in (("weight", self.gain), ("bias", self.bias)):
            norm.register_parameter(name, attrgetter(own)(module) if own else None)
        return norm


def roles_in(record: TracedPass, trainable: Collection[int]) -> dict[nn.Module, Roles]:
    """The roles in the user's own layers, where parameters with `trainable` ids may be written.

    A layer that connects nothing is dropped from the record's synapses; one that gives the same for twice its input and
    has a gain is a norm.
    """
    found: dict[nn.Module, Roles] = {}
    norms: dict[nn.Module, nn.Module] = {}
    for module, (args, kwargs) in record.inputs.items():
        if isinstance(module, torch.jit.ScriptModule):
            found[module] = Roles(tuple(_sealed(name) for name, p in named_parameters_of(module) if p.ndim > 1))
            continue
        frozen = [name for name, p in named_parameters_of(module) if id(p) not in trainable]
        with suppress(Exception):  # foreign code may refuse such input: then names must do
            roles = roles_of(module, args, kwargs, frozen)
            settable = roles.gain or any(weight.shifts or not weight.skipped_because for weight in roles.weights)
            if settable or not parametrised(module):
                found[module] = roles
            if roles.gain and not roles.weights:
                norms[module] = roles.as_norm(module)
    record.norm_of = {
        node: norms.get(module, module)
        for node, module in record.norm_of.items()
        if module in norms or module not in record.inputs
    }
    idle = {module for module, roles in found.items() if not roles.weights}
    record.no_weights |= {id(p) for module in idle for p in parameters_of(module, False)}
    record.synapse_of = {node: module for node, module in record.synapse_of.items() if module not in idle}
    return {module: roles for module, roles in found.items() if roles.weights}


@torch.no_grad()
def roles_of(module: nn.Module, args: Any, kwargs: Any, frozen: Collection[str]) -> Roles:
    """What the parameters of a layer do, found by running it as it was called; the layer is not changed."""
    named = [(name, p.detach()) for name, p in named_parameters_of(module) if p.is_floating_point()]
    # Beside a weight that is zero other weights would have no effect.
    own = {name: p if p.ndim < 2 or bool(p.any()) else 0.1 * _noise(p, 0) for name, p in named}
    with preserved(module):
        run = _runner(module, args, kwargs, own)
        found = [role for name in own if (role := _role(run, own, name)) is not None]
        matrices = [role for role in found if own[role.name].ndim > 1]
        connecting = [role for role in matrices if not role.single]
        if not connecting and len(run({})) > sum(x.numel() for x in tensors_in((args, kwargs))):  # one input each
            connecting = [role for role in matrices if role.linear and role.of_input]
        kept, left = _chosen(run, own, connecting, frozen)
        sizeless = all(r.sizeless for r in connecting) if connecting else _near(run({}, 2), run({}), _NEARLY)
    shifts = [r.name for r in found if r.single and r.linear and not r.of_input and not r.random]
    units = {own[r.name].shape[r.rows or 0] for r in kept or connecting}
    scaling = [r.name for r in found if r.single and r.linear and r.of_input and not r.random] if sizeless else []
    units = units or {own[name].numel() for name in scaling[:1]}
    bias = next((name for name in shifts if own[name].numel() in units), None)
    gain = next((name for name in scaling if name not in frozen and own[name].numel() in units), None)
    if connecting and not kept:
        kept = [replace(connecting[0], skipped_because=left.pop(connecting[0].name))]
    notes = [f"{name} was left as it is: {reason}" for name, reason in left.items()]
    return Roles(tuple(kept), bias, gain, len(shifts) > (bias is not None), "; ".join(notes) or None)


def _sealed(name: str) -> Role:
    """The role of a weight that torch.jit hides."""
    reason = "torch.jit hides how it acts; initialise it before it is compiled, and load its state_dict then"
    return Role(name, None, None, True, *(False,) * 2, None, *(False,) * 5, reason)


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _runner(module: nn.Module, args: Any, kwargs: Any, start: Values) -> Run:
    """The layer as a function of its parameters, on two random inputs without zeros, twice the first, and zero.

    What is taken away of the input in the model, such as the spikes of inhibitory neurons, is negative there too.
    """

    def filled(seed: int, factor: float) -> Any:
        def value(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            return factor * (0.1 + _noise(x, seed).abs()) * torch.where(_taken_away(x), -1.0, 1.0).to(x)

        return mapped((tuple(args), dict(kwargs)), value)

    inputs = [filled(2, 1.0), filled(3, 1.0), filled(2, 2.0), filled(2, 0.0)]

    def run(values: Values, number: int = 0, seed: int = 0) -> Tensor:
        with torch.random.fork_rng(gpus := gpus_of(module)):
            seed_torch(seed, gpus)
            output = functional_call(module, start | values, *inputs[number])
        return torch.cat([y.flatten() for y in tensors_in(output) if y.is_floating_point()])

    return run


def _taken_away(x: Tensor) -> Tensor:
    """Where a signal is negative in all of some row, zeros among it: a zero that is negated has a sign too."""
    found = torch.zeros_like(x, dtype=torch.bool)
    for axis in range(x.ndim):
        rows = x.transpose(0, axis).flatten(1)
        negated = torch.signbit(rows).all(1) & (rows == 0).any(1)
        found |= negated.reshape(-1, *[1] * (x.ndim - 1)).transpose(0, axis)
    return found


def _moved(own: Values, name: str, times: float = 1.0) -> Values:
    """The values, with the parameter moved by a multiple of its own size."""
    size = float(own[name].double().square().mean().sqrt()) or 0.1
    return {name: own[name] + times * size * _noise(own[name], 1)}


def _role(run: Run, own: Values, name: str) -> Role | None:
    """The role of a parameter; None if the output does not depend on it."""
    base, one = run({}), _moved(own, name)
    there, double, without = run(one), run({name: 2 * one[name]}), run({name: _LITTLE * one[name]})
    change, nothing = there - base, run({}, 3)
    if not bool((change.abs() > 1e-6 * base.abs().max()).any()):
        return None
    single, rows, mask = _dependence(run, one, name, (change * there).abs().topk(min(_PROBED, len(there))).indices)
    bare, size = run({name: one[name] - _DEEP}) - nothing, (there - nothing).double().norm()
    passing = _near(run({}, 2) - nothing, 2 * (base - nothing), _NEARLY)
    signs = _signs(run, own, name, there, without) if passing and not single else None
    return Role(
        name,
        rows,
        mask if signs is None else None if bool(signs.all()) else signs != 0,
        linear=_near(run(_moved(own, name, 2.0)) - base, 2 * change, _EXACT),
        scales=passing and _near(double - without, 2 * (there - without), _NEARLY),
        grows=passing
        and rows is not None
        and bool(without.double().norm() <= _NEARLY * there.double().norm())
        and bool(double.double().norm() >= (1 + _NEARLY) * there.double().norm()),
        signs=signs,
        shifts=passing
        and rows is not None
        and bool(bare.double().norm() <= _EXACT * size)
        and bool((run({name: one[name] + 1}) - nothing).double().norm() >= (1 + _NEARLY) * size),
        sizeless=_near(double, there, _EXACT),
        of_input=not _near(run(one, 1) - run({}, 1), change, _EXACT),
        random=not _near(run(one, 0, 1) - run({}, 0, 1), change, _EXACT),
        single=single,
    )


@torch.enable_grad()
def _signs(run: Run, own: Values, name: str, there: Tensor, without: Tensor) -> Tensor | None:
    """See `Role.signs`: linear in absolute values, or in positive parts of both signs (of one sign it `shifts`)."""
    one, other = (_moved(own, name, times)[name].abs() for times in (1.0, 2.0))
    value = one.clone().requires_grad_()
    positive = run({name: value})
    if not _near(run({name: one + other}) + without, positive + run({name: other}), _EXACT):
        return None
    (gradient,) = torch.autograd.grad(positive.sum(), value, allow_unused=True)
    signs = torch.zeros_like(one) if gradient is None else gradient.sign()
    above, below = (run({name: torch.where(signs == s, one, _LITTLE * one)}) - without for s in (1, -1))
    folded = _near(run({name: -one}), positive, _EXACT) and _near(there, positive, _EXACT)
    cut = _near(positive - run({name: -one}), positive - without, _EXACT) and bool(above.any()) and bool(below.any())
    consistent = bool((above >= 0).all()) and bool((below <= 0).all())
    return signs if consistent and (folded or cut) else None


def _near(x: Tensor, y: Tensor, tolerance: float) -> bool:
    return bool((x - y).double().norm() <= tolerance * y.double().norm())


@torch.enable_grad()
def _dependence(run: Run, at: Values, name: str, probed: Tensor) -> tuple[bool, int | None, Tensor | None]:
    """Whether an output depends on one entry, the axis along which it sees one index, and the entries that act."""
    p = at[name]
    value = p.clone().requires_grad_()
    output = run({name: value})
    ends = output[probed].unbind()
    all_of_it = (output * torch.linspace(1, 2, len(output)).to(output)).sum()
    grads = [torch.autograd.grad(y, value, retain_graph=True, allow_unused=True)[0] for y in (*ends, all_of_it)]
    *touched, alive = [torch.zeros_like(p, dtype=torch.bool) if g is None else g != 0 for g in grads]
    most = max(touched, key=lambda t: int(t.sum()))
    axes = [k for k in range(p.ndim) if p.ndim > 1 and int(most.transpose(0, k).flatten(1).any(1).sum()) == 1]
    rows = next((k for k in axes if p.shape[k] > 1), axes[0] if axes else None)
    return int(most.sum()) <= 1, rows, None if bool(alive.all()) else alive


def _chosen(
    run: Run, own: Values, connecting: list[Role], frozen: Collection[str]
) -> tuple[list[Role], dict[str, str]]:
    """The weights among connecting parameters, and why others were left."""
    kept, left, factors = list[Role](), dict[str, str](), set[str]()
    linear = any(role.linear for role in connecting)
    # Parameters that may be written come first, and among them those that count output units.
    for role in sorted(connecting, key=lambda role: (role.name in frozen, role.rows is None)):
        partner = next((other.name for other in kept if _multiply(run, own, role.name, other.name)), None)
        if role.sizeless:
            left[role.name] = "its size has no effect on the output"
        elif not role.linear and role.signs is None and (linear or role.shifts or not (role.scales or role.grows)):
            left[role.name] = "the output is not linear in it" + ", so it is shifted as a whole at most" * role.shifts
        elif partner is not None:
            left[role.name] = f"it is multiplied with {partner}"
            factors.add(partner)
        else:
            kept.append(role)
    held = [role.name for role in kept if role.name in frozen]
    for k, role in enumerate(kept):
        if role.random and not all(other.random for other in kept):
            kept[k] = replace(role, skipped_because="it scales noise")
        elif held and role.name in factors and role.name not in frozen:
            kept[k] = replace(role, skipped_because=f"it adapts {held[0]}, which is frozen")
    return kept, left


def _multiply(run: Run, own: Values, name: str, other: str) -> bool:
    """Whether the output depends on the product of two parameters."""
    first, second = _moved(own, name), _moved(own, other)
    return not _near(run(first | second) - run(first), run(second) - run({}), _EXACT)
