"""The facts of norse's neurons.

Their constants are in the named tuple `module.p`, time constants as rates in 1/s, integrated by Euler steps of
`module.dt` seconds. Neurons keep no state: a cell, called once a time step, and a sequence module, called once with
`[T, B, ...]`, both take the state and return the next beside their spikes. Recurrent ones own their weights.
"""

import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, get_type_hints

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from fluctua.network.adapters.framework import FactsOf, Framework, Sharpness, State, States, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, Pathway, PopulationSpec, inner_pathway
from fluctua.network.run import Layout
from fluctua.neurons.leaky import numbers as _numbers
from fluctua.theory import PspKernel

Array = NDArray[np.float64]

_NEGLIGIBLE = 1e-9  # of a response's peak
_UPSTROKE = (
    "its exponential upstroke is linearised at rest: near the threshold the potential rises above what is reported"
)


def lif(module: Any, timing: Timing) -> Neuron:
    """A synaptic current that arrives at once, read before it decays; hard reset."""
    return _spiking(module.p, _current_based(module, module.p))


def lif_refractory(module: Any, timing: Timing) -> Neuron:
    """Before its first spike nothing is refractory."""
    return _spiking(module.p.lif, _current_based(module, module.p.lif))


def lif_box(module: Any, timing: Timing) -> Neuron:
    """No synaptic current."""
    return _spiking(module.p, _box(module))


def iaf(module: Any, timing: Timing) -> Neuron:
    """A perfect integrator that starts from its reset potential."""
    kernel = PspKernel.integrator(1.0, module.dt, timing.trial)
    return Neuron.spiking((kernel,), module.p.v_th, _mean(module.p.v_reset))


def lsnn(module: Any, timing: Timing) -> Neuron:
    """The current acts on the membrane one step after its arrival; the adaptive threshold starts at v_th."""
    return _spiking(module.p, _current_based(module, module.p, delay=1))


def lif_ex(module: Any, timing: Timing) -> Neuron:
    """Its exponential upstroke, linearised at rest, makes the membrane slower."""
    p = module.p
    g, synapse = _step(module, p, "tau_mem_inv"), _step(module, p, "tau_syn_inv")
    rest = _rest(module, p, 0.0)
    kernel = PspKernel.two_poles(g, 1 - g * (1 - _slope(p, rest)), 1 - synapse, module.dt)
    return Neuron.spiking((kernel,), p.v_th, float(rest.mean()), note=_UPSTROKE)


def lif_adex(module: Any, timing: Timing) -> Neuron:
    """As `lif_ex`, with an adaptation current that follows the potential."""
    return _adaptive_exponential(module, module.p)


def lif_adex_refractory(module: Any, timing: Timing) -> Neuron:
    """Before its first spike nothing is refractory."""
    return _adaptive_exponential(module, module.p.lif_adex)


def li(module: Any, timing: Timing) -> Neuron:
    """A readout behind a synaptic current."""
    return Neuron((_current_based(module, module.p),), None, _mean(module.p.v_leak))


def li_box(module: Any, timing: Timing) -> Neuron:
    """A readout without one."""
    return Neuron((_box(module),), None, _mean(module.p.v_leak))


def own_input(facts: Callable[[Any, Timing], Neuron]) -> FactsOf:
    """Of a module with weights for what it is called with."""

    def specs(module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
        return {"": PopulationSpec(facts(module, timing), module, (None,), (_input(module),))}

    return specs


def recurrent(facts: Callable[[Any, Timing], Neuron]) -> FactsOf:
    """Of a module that has weights for its own spikes, too."""

    def specs(module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
        return {"": PopulationSpec(facts(module, timing), module, (None,), (_input(module), _recurrence(module)))}

    return specs


def sharpness(module: Any) -> Sharpness | None:
    """`alpha` of its parameters, or of those of the neuron within."""
    path = next((path for path in ((), ("lif",), ("lif_adex",)) if hasattr(_inner(module.p, path), "alpha")), None)
    if path is None:
        return None
    held = module.p

    def put(value: float) -> None:
        inner = _inner(held, path)
        p = inner._replace(alpha=torch.as_tensor(value).to(torch.as_tensor(inner.alpha)))
        for name in path:
            p = held._replace(**{name: p})
        module.p = p

    return Sharpness("alpha", float(torch.as_tensor(_inner(held, path).alpha).double().mean()), put)


def _inner(p: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        p = getattr(p, name, None)
    return p


def layout(module: Any) -> Layout:
    """Sequence modules take the whole sequence, cells a step."""
    bases = {base.__name__ for base in type(module).__mro__}
    return Layout("step" if bases.isdisjoint({"SNN", "SNNRecurrent"}) else "first")


class Cells(Stepping):
    """State taken and returned, as a named tuple, of which an item may be one too."""

    def names(self, module: Any) -> tuple[str, ...]:
        """See `Stepping.names`."""
        if not hasattr(module, "activation") or hasattr(module, "recurrent_weights"):
            raise UnsupportedNeuronError(f"{type(module).__name__} is more than a neuron by itself")
        names = _fields(_state_class(module))
        return tuple(sorted(names, key=lambda name: name.rpartition(".")[2] != "v"))

    def step(self, module: Any, x: Tensor, state: States) -> tuple[Tensor, States]:
        """See `Stepping.step`."""
        sequence = not layout(module).stepwise
        given = self._state(module, state)
        output, after = type(module).forward(module, x.unsqueeze(0) if sequence else x, given)
        return output.squeeze(0) if sequence else output, self._parts(module, after)

    def rest(self, module: Any, x: Tensor) -> States:
        """See `Stepping.rest`."""
        found = module.state_fallback(x if layout(module).stepwise else x[None])
        return tuple(_shared(part.detach()) for part in self._parts(module, found))

    def given(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> States | None:
        """See `Stepping.given`."""
        state = next(iter([*args, *kwargs.values()]), None)
        return None if state is None else self._parts(module, state)

    def kept(self, module: Any, x: Tensor) -> States | None:
        """See `Stepping.kept`."""
        return None

    def keep(self, module: Any, state: States) -> None:
        """See `Stepping.keep`."""

    def answer(self, module: Any, output: Tensor, state: States) -> Any:
        """See `Stepping.answer`."""
        return output, self._state(module, state)

    def watched(self, module: Any) -> str | None:
        """See `Stepping.watched`."""
        return "it records its states (record_states)" if getattr(module, "record_states", False) else None

    def _parts(self, module: Any, state: Any) -> States:
        return tuple(attrgetter(name)(state) for name in self.names(module))

    def _state(self, module: Any, parts: States) -> Any:
        return _state_of(_state_class(module), dict(zip(self.names(module), parts, strict=True)))


def _state_class(module: Any) -> Any:
    return get_type_hints(type(module).initial_state)["return"]


def _fields(kind: Any, prefix: str = "") -> list[str]:
    """The names of all parts of a state, "lif.v" of an inner one."""
    names = []
    for name, part in get_type_hints(kind).items():
        names += _fields(part, f"{prefix}{name}.") if hasattr(part, "_fields") else [f"{prefix}{name}"]
    return names


def _state_of(kind: Any, parts: Mapping[str, Any], prefix: str = "") -> Any:
    return kind(
        **{
            name: _state_of(part, parts, f"{prefix}{name}.") if hasattr(part, "_fields") else parts[f"{prefix}{name}"]
            for name, part in get_type_hints(kind).items()
        }
    )


def _shared(part: Tensor) -> Tensor | float:
    """A number, where all neurons have the same."""
    first = part.reshape(-1)[0]
    return float(first) if bool((part == first).all()) else part


def step(model: nn.Module, x: Tensor, state: State) -> tuple[Any, State]:
    """A step of a model that takes its state and returns the next, such as `SequentialState`; or one that keeps it."""
    if len(inspect.signature(model.forward).parameters) < 2:
        return model(x), None
    output, state = model(x, state)
    return output, state


def _input(module: Any) -> Pathway:
    def current(x: Tensor) -> Tensor:
        return linear(x.to(module.input_weights), module.input_weights)

    return inner_pathway(module, 0, 0, current, parameter="input_weights")


def _recurrence(module: Any) -> Pathway:
    weight = module.recurrent_weights
    mask = None if module.autapses else 1 - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)

    def current(spikes: Tensor) -> Tensor:
        w = module.recurrent_weights
        now = linear(spikes.to(w), w if mask is None else w * mask)
        return torch.cat([torch.zeros_like(now[:1]), now[:-1]])

    return inner_pathway(module, "", 0, current, parameter="recurrent_weights", mask=mask)


def _spiking(p: Any, kernel: PspKernel) -> Neuron:
    return Neuron.spiking((kernel,), p.v_th, _mean(p.v_leak))


def _current_based(module: Any, p: Any, delay: int = 0) -> PspKernel:
    g, synapse = _step(module, p, "tau_mem_inv"), _step(module, p, "tau_syn_inv")
    return PspKernel.two_poles(g, 1 - g, 1 - synapse, module.dt, delay=delay)


def _box(module: Any) -> PspKernel:
    g = _step(module, module.p, "tau_mem_inv")
    return PspKernel.one_pole(g, 1 - g, module.dt)


def _adaptive_exponential(module: Any, p: Any) -> Neuron:
    g, synapse = _step(module, p, "tau_mem_inv"), _step(module, p, "tau_syn_inv")
    h, coupling = _step(module, p, "tau_ada_inv"), _numbers(p.adaptation_current)
    rest = _rest(module, p, coupling)
    leak = 1 - _slope(p, rest)
    if (leak <= 0).any():
        raise UnsupportedNeuronError(
            f"{type(module).__name__} rests where its upstroke outgrows its leak (v = {rest.max():.6g} at delta_T = "
            f"{_numbers(p.delta_T).max():.6g}), so its response cannot be linearised: give it a smaller delta_T"
        )
    kernel = PspKernel.from_response(_response(g, leak, synapse, h, coupling), module.dt)
    return Neuron.spiking((kernel,), p.v_th, float(rest.mean()), note=_UPSTROKE)


def _response(g: ArrayLike, leak: ArrayLike, synapse: ArrayLike, h: ArrayLike, coupling: ArrayLike) -> Array:
    """Impulse response `[K, *N]` of a membrane with an adaptation current, until that has faded."""
    g, leak, synapse, h, coupling = np.broadcast_arrays(g, leak, synapse, h, coupling)
    v, i, a = np.zeros_like(g), np.ones_like(g), np.zeros_like(g)
    slowest = min(float(x.min()) for x in (g * leak, synapse, h))
    longest = int(np.log(_NEGLIGIBLE) / np.log1p(-slowest)) if slowest < 1 else 1
    eps = []
    for _ in range(longest):
        v, i, a = v + g * (i - leak * v - a), (1 - synapse) * i, a + h * (coupling * v - a)
        eps.append(v)
    return np.stack(eps)


def _rest(module: Any, p: Any, coupling: ArrayLike) -> Array:
    """Where leak and adaptation balance the upstroke: the lower root of a convex function, by Newton from its left."""
    leak, theta, sharpness = (_numbers(x) for x in (p.v_leak, p.v_th, p.delta_T))
    stiffness = 1 + np.asarray(coupling, float)
    if (leak + sharpness > theta + sharpness * np.log(stiffness)).any():
        raise UnsupportedNeuronError(
            f"{type(module).__name__} has no resting potential at delta_T = {sharpness.max():.6g} with v_leak = "
            f"{leak.max():.6g} and v_th = {theta.min():.6g}, so it fires without input: give it a smaller delta_T"
        )
    v = np.broadcast_arrays(leak, theta, sharpness, stiffness)[0]
    for _ in range(100):
        upstroke = sharpness * np.exp((v - theta) / sharpness)
        v = v + (stiffness * (leak - v) + upstroke) / (stiffness - upstroke / sharpness)
    return v


def _slope(p: Any, v: Array) -> Array:
    slope: Array = np.exp((v - _numbers(p.v_th)) / _numbers(p.delta_T))
    return slope


def _step(module: Any, p: Any, rate: str) -> Array:
    """Share of a state that decays in one Euler step."""
    share: Array = module.dt * _numbers(getattr(p, rate))
    beyond = ~((share > 0) & (share <= 1))
    if beyond.any():
        raise UnsupportedNeuronError(
            f"{type(module).__name__} has dt * {rate} = {share[beyond][0]:.6g}, of which an Euler step can take "
            "more than 0 and at most 1: give it another dt or another time constant"
        )
    return share


def _mean(constant: Any) -> float:
    return float(_numbers(constant).mean())


def _classes(facts: Callable[[Any, Timing], Neuron], file: str, name: str, *kinds: str) -> dict[str, FactsOf]:
    """The entries of one neuron model, whose classes differ in how they are called and in what weights they own."""
    return {
        f"norse.torch.module.{file}.{name}{kind}": recurrent(facts) if kind.startswith("Recurrent") else facts
        for kind in kinds
    }


_ALL = ("", "Cell", "Recurrent", "RecurrentCell")

FACTS: Mapping[str, FactsOf] = {
    **_classes(lif, "lif", "LIF", *_ALL),
    **_classes(lif_refractory, "lif_refrac", "LIFRefrac", "Cell", "Recurrent", "RecurrentCell"),
    **_classes(lif_box, "lif_box", "LIFBox", "Cell"),
    **_classes(iaf, "iaf", "IAF", "", "Cell"),
    **_classes(lsnn, "lsnn", "LSNN", *_ALL),
    **_classes(lif_ex, "lif_ex", "LIFEx", *_ALL),
    **_classes(lif_adex, "lif_adex", "LIFAdEx", *_ALL),
    **_classes(lif_adex_refractory, "lif_adex_refrac", "LIFAdExRefrac", "Cell", "Recurrent", "RecurrentCell"),
    **_classes(li, "leaky_integrator", "LI", "", "Cell"),
    **_classes(li_box, "leaky_integrator_box", "LIBox", "Cell"),
    "norse.torch.module.leaky_integrator.LILinearCell": own_input(li),
}

_CONDUCTANCE = "its synapses are conductances, so its potential is not linear in the weights: use LIFCell instead"
_QUADRATIC = "its membrane is quadratic, so its potential is not linear in the weights: use LIFCell instead"
_COMPARTMENTS = (
    "g_coupling joins the potentials of its neurons, so no neuron has a kernel of its own: use LIFRecurrentCell instead"
)

REFUSED: Mapping[str, str] = {
    "norse.torch.module.coba_lif.CobaLIFCell": _CONDUCTANCE,
    "norse.torch.module.izhikevich.Izhikevich": _QUADRATIC,
    "norse.torch.module.izhikevich.IzhikevichCell": _QUADRATIC,
    "norse.torch.module.izhikevich.IzhikevichRecurrent": _QUADRATIC,
    "norse.torch.module.izhikevich.IzhikevichRecurrentCell": _QUADRATIC,
    "norse.torch.module.lif_correlation.LIFCorrelation": (
        "its weights are arguments of the call and no parameters of the model: use LIFRecurrentCell instead"
    ),
    "norse.torch.module.lif_mc.LIFMCRecurrentCell": _COMPARTMENTS,
    "norse.torch.module.lif_mc_refrac.LIFMCRefracRecurrentCell": _COMPARTMENTS,
}

FRAMEWORK = Framework(
    package="norse",
    tested="1.1.0",
    facts=FACTS,
    refused=REFUSED,
    timed=True,
    layout=layout,
    stepping=Cells(),
    sharpness=sharpness,
    step=step,
)
