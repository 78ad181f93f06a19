"""The facts of norse's neurons.

Their constants are in the named tuple `module.p`, time constants as rates in 1/s, integrated by Euler steps of
`module.dt` seconds. Neurons keep no state: a cell, called once per time step, and a sequence module, called once with
`[T, B, ...]`, both take the state and return the next with their spikes. Recurrent ones own their weights.
"""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from fluctua.network.adapters.framework import FactsOf, Framework, Hearing, Sharpness, State, States, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, PopulationSpec, numbers_of
from fluctua.network.run import Layout
from fluctua.theory import PspKernel


def linear_readout(module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
    """A readout with weights for its input."""
    from fluctua.network.adapters.by_step import called_with_input

    gain, decay = (module.dt * numbers_of(rate) for rate in (module.p.tau_mem_inv, module.p.tau_syn_inv))
    kernel = PspKernel.two_poles(gain, 1 - gain, 1 - decay, module.dt)
    neuron = Neuron((kernel,), None, float(numbers_of(module.p.v_leak).mean()))
    return called_with_input(neuron, module, module.input_weights)


def sharpness(module: Any) -> Sharpness | None:
    """`alpha` of its parameters, or of those of its inner neuron."""
    held = module.p
    places = {"": held, "lif": getattr(held, "lif", None), "lif_adex": getattr(held, "lif_adex", None)}
    place = next((name for name, p in places.items() if hasattr(p, "alpha")), None)
    if place is None:
        return None
    inner: Any = places[place]
    alpha = torch.as_tensor(inner.alpha)

    def put(value: float) -> None:
        p = inner._replace(alpha=torch.as_tensor(value).to(alpha))
        module.p = held._replace(**{place: p}) if place else p

    return Sharpness("alpha", float(alpha.double().mean()), put)


def layout(module: Any) -> Layout:
    """Sequence modules take the whole sequence, cells one step."""
    bases = {base.__name__ for base in type(module).__mro__}
    return Layout("step" if bases.isdisjoint({"SNN", "SNNRecurrent"}) else "first")


class Cells(Stepping):
    """State taken and returned, as a named tuple that may contain another one."""

    def names(self, module: Any) -> tuple[str, ...]:
        if not hasattr(module, "activation"):
            raise UnsupportedNeuronError(f"{type(module).__name__} does more than a single neuron")
        return _in_order(_state_class(module))

    def hearing(self, module: Any) -> Hearing | None:
        if not hasattr(module, "recurrent_weights"):
            return None
        weight = module.recurrent_weights
        mask = None if module.autapses else 1 - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        return Hearing(weight, module.input_weights, mask=mask)

    def step(self, module: Any, x: Tensor, state: States) -> tuple[Tensor, States]:
        sequence = not layout(module).stepwise
        given = self._state(module, state)
        with _Unweighted(module):
            output, after = type(module).forward(module, x.unsqueeze(0) if sequence else x, given)
        return output.squeeze(0) if sequence else output, self._parts(module, after)

    def rest(self, module: Any, x: Tensor) -> States:
        found = module.state_fallback(x if layout(module).stepwise else x[None])
        return tuple(_shared(part.detach()) for part in self._parts(module, found))

    def given(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> States | None:
        state = next(iter([*args, *kwargs.values()]), None)
        return None if state is None else self._parts(module, state)

    def kept(self, module: Any, x: Tensor) -> States | None:
        return None

    def keep(self, module: Any, state: States) -> None:
        """See `Stepping.keep`."""

    def answer(self, module: Any, output: Tensor, state: States) -> Any:
        return output, self._state(module, state)

    def watched(self, module: Any) -> str | None:
        return "it records its states (record_states)" if getattr(module, "record_states", False) else None

    def _parts(self, module: Any, state: Any) -> States:
        return tuple(attrgetter(name)(state) for name in self.names(module))

    def _state(self, module: Any, parts: States) -> Any:
        return _state_of(_state_class(module), dict(zip(self.names(module), parts, strict=True)))


class _Unweighted(TorchFunctionMode):
    """Takes the input for the current: the module's own input weight passes it on, its recurrent weight gives none."""

    def __init__(self, module: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is linear and args[1] is getattr(self._module, "input_weights", self):
            return args[0]
        if func is linear and args[1] is getattr(self._module, "recurrent_weights", self):
            return torch.zeros_like(args[0])
        return func(*args, **(kwargs or {}))


_hints = lru_cache(maxsize=64)(get_type_hints)  # takes longer than a step


@lru_cache(maxsize=64)
def _in_order(kind: Any) -> tuple[str, ...]:
    order = {"v": 0, "z": 2}  # the spikes of the step before last
    return tuple(sorted(_fields(kind), key=lambda name: order.get(name.rpartition(".")[2], 1)))


def _state_class(module: Any) -> Any:
    return _hints(type(module).initial_state)["return"]


def _fields(kind: Any, prefix: str = "") -> list[str]:
    """The names of all parts of a state; "lif.v" for an inner one."""
    names = []
    for name, part in _hints(kind).items():
        names += _fields(part, f"{prefix}{name}.") if hasattr(part, "_fields") else [f"{prefix}{name}"]
    return names


def _state_of(kind: Any, parts: Mapping[str, Any], prefix: str = "") -> Any:
    found = {}
    for name, part in _hints(kind).items():
        path = f"{prefix}{name}"
        found[name] = _state_of(part, parts, f"{path}.") if hasattr(part, "_fields") else parts[path]
    return kind(**found)


def _shared(part: Tensor) -> Tensor | float:
    """A number if it is the same for all neurons."""
    first = part.reshape(-1)[0]
    return float(first) if bool((part == first).all()) else part


def step(model: nn.Module, x: Tensor, state: State) -> tuple[Any, State]:
    """A step of a model that takes and returns its state, such as `SequentialState`, or that keeps it."""
    if len(inspect.signature(model.forward).parameters) < 2:
        return model(x), None
    output, state = model(x, state)
    return output, state


_KINDS = {
    "lif.LIF": ("", "Cell", "Recurrent", "RecurrentCell"),
    "lif_refrac.LIFRefrac": ("Cell", "Recurrent", "RecurrentCell"),
    "lif_box.LIFBox": ("Cell",),
    "iaf.IAF": ("", "Cell"),
    "lsnn.LSNN": ("", "Cell", "Recurrent", "RecurrentCell"),
    "lif_ex.LIFEx": ("", "Cell", "Recurrent", "RecurrentCell"),
    "lif_adex.LIFAdEx": ("", "Cell", "Recurrent", "RecurrentCell"),
    "lif_adex_refrac.LIFAdExRefrac": ("Cell", "Recurrent", "RecurrentCell"),
    "leaky_integrator.LI": ("", "Cell"),
    "leaky_integrator_box.LIBox": ("Cell",),
}

FACTS: Mapping[str, FactsOf | None] = {
    **{f"norse.torch.module.{name}{kind}": None for name, kinds in _KINDS.items() for kind in kinds},
    "norse.torch.module.leaky_integrator.LILinearCell": linear_readout,
}

_CONDUCTANCE = "its synapses are conductances, so its potential is not linear in the weights: use LIFCell instead"
_QUADRATIC = "its membrane equation is quadratic, so its potential is not linear in the weights: use LIFCell instead"
_COMPARTMENTS = (
    "g_coupling joins the potentials of its neurons, so no neuron has a kernel of its own: use LIFRecurrentCell instead"
)

REFUSED: Mapping[str, str] = {
    "norse.torch.module.coba_lif.CobaLIFCell": _CONDUCTANCE,
    **{f"norse.torch.module.izhikevich.Izhikevich{kind}": _QUADRATIC for kind in _KINDS["lif.LIF"]},
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
