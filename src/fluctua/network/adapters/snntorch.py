"""The facts of snnTorch's neurons.

They know no time step: decays are factors per step, clamped to [0, 1] where they are used. A spike moves the potential
by the whole weight in the step of its arrival; the threshold is read in the same step, the reset follows one step
later. State is kept in the module, or taken and returned.
"""

from collections.abc import Mapping
from functools import cache
from inspect import signature
from types import CellType, FunctionType
from typing import Any

import numpy as np
from torch import Tensor

from fluctua.network.adapters.framework import FactsOf, Framework, Hearing, Sharpness, States, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, Pathway, PopulationSpec, numbers_of
from fluctua.network.run import Layout
from fluctua.theory import PspKernel
from fluctua.theory.psp import Array, TwoStateKernel

_ENDLESS = 1 - 1e-9  # a decay from here on makes a perfect integrator, which never settles within a trial


def state_leaky(module: Any, timing: Timing) -> Neuron:
    """A filter over the whole sequence, without reset; its decay is not `beta` but `exp(beta - 1)`."""
    a, length = np.exp(-1 / numbers_of(module.tau)), module.kernel_truncation_steps
    if length is None:
        kernel: PspKernel = TwoStateKernel.make(timing.unit, a=a, jump_mem=1.0, steps=_steps(a, timing))
    else:
        kernel = PspKernel.from_response(np.stack([a**k for k in range(length)]), timing.unit)
    if not module.output:
        return Neuron((kernel,), None)
    resets, size = module.reset_mechanism != "none", numbers_of(module.graded_spikes_factor)
    return Neuron.spiking((kernel,), module.threshold, resets=resets, size=size)


def delta_leaky(module: Any, timing: Timing) -> Neuron:
    """Compares the change of its potential in one step with its threshold, on both sides."""
    b = numbers_of(module.beta)
    steps = _steps(b, timing)
    kernel = TwoStateKernel.make(timing.unit, a=0.0, b=b, coupling=b - 1, jump_mem=1.0, jump_syn=1.0, steps=steps)
    note = "its potential is the change of `mem` in a step, and it fires on both sides, at twice the predicted rate"
    return Neuron.spiking((kernel,), module.delta_threshold, note=note)


def linear_leaky(module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
    """A filter over the whole sequence, with weights for its input."""
    synapse = Pathway("", module.linear, "", (), inner=module.linear.forward, argument=0)
    return {"": PopulationSpec(state_leaky(module, timing), module, (None,), (synapse,))}


class Cells(Stepping):
    """State in buffers, or taken and returned."""

    def names(self, module: Any) -> tuple[str, ...]:
        """See `Stepping.names`."""
        _, names, _ = _states(module)
        if not names:
            raise UnsupportedNeuronError(f"{type(module).__name__} takes more than a current and states")
        return names

    def hearing(self, module: Any) -> Hearing | None:
        return Hearing(module.recurrent) if getattr(module, "all_to_all", False) else None

    def options(self, module: Any) -> tuple[str, ...]:
        factor = module.graded_spikes_factor
        return ("graded_spikes_factor",) if factor.numel() == 1 and not factor.requires_grad else ()

    def simplify(self, module: Any) -> str | None:
        rounds, module.state_quant = module.state_quant, False
        alone, module.inhibition = getattr(module, "inhibition", False), False
        notes = ["it rounds its potential by `state_quant`, which its facts ignore"] if rounds else []
        notes += ["by `inhibition` one neuron of each sample fires at most, which its facts ignore"] if alone else []
        return "; ".join(notes) or None

    def call(self, module: Any, x: Tensor) -> Tensor:
        output = type(module).forward(module, x)
        spikes: Tensor = output[0] if isinstance(output, tuple) else output
        return spikes

    def given(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> States | None:
        """See `Stepping.given`."""
        taken, names, _ = _states(module)
        passed = dict(zip(taken, args, strict=False)) | dict(kwargs)
        found = tuple(map(passed.get, names))
        return None if type(None) in map(type, found) else found

    def answer(self, module: Any, output: Tensor, state: States) -> Any:
        if module.init_hidden and not module.output:
            return output
        _, _, returned = _states(module)
        return output, *[state[k] for k in returned]


def _states(module: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """The state as a call takes it behind the current, and with the potential first; nothing where it takes more.

    Then which of the latter a call returns behind its spikes, in this order.
    """
    return _states_of(type(module), tuple(module._buffers))  # type: ignore[arg-type]


@cache
def _states_of(kind: Any, buffers: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    taken = tuple(signature(kind.forward).parameters)[2:]
    if "mem" not in taken or not set(taken).issubset(buffers):
        return (), (), ()
    names = tuple(sorted(taken, key=lambda name: (name == "spk", name != "mem")))
    return taken, names, tuple(names.index(name) for name in taken if name != "spk")


_SHARPNESS = ("slope", "alpha", "beta", "k")


def sharpness(module: Any) -> Sharpness | None:
    """A number that `spike_grad` was made with. Modules may share the function, so a copy gets the new number."""
    function = module.spike_grad
    if not isinstance(function, FunctionType) or function.__closure__ is None:
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    name = next((n for n in _SHARPNESS if n in cells and isinstance(cells[n].cell_contents, int | float)), None)
    if name is None:
        return None

    def put(value: float) -> None:
        closure = tuple((cells | {name: CellType(value)}).values())
        twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
        twin.__qualname__, twin.__kwdefaults__ = function.__qualname__, function.__kwdefaults__
        module.spike_grad = twin

    return Sharpness(name, float(cells[name].cell_contents), put)


def layout(module: Any) -> Layout:
    """Filters take the whole sequence, the others one step."""
    return Layout("first" if hasattr(module, "kernel_truncation_steps") else "step")


def reset(module: Any) -> None:
    """To rest; `snntorch.utils.reset` reaches only the direct children of a network."""
    if hasattr(module, "reset_mem"):
        module.reset_mem()


def _steps(decay: Array, timing: Timing) -> int | None:
    """The trial, over which moments are averaged, where a decay is so slow that the potential never settles."""
    return timing.trial if np.max(decay) > _ENDLESS else None


_ELSEWHERE = "or call fluctua on the part of the network before it"
_GATED = f"its gates make the potential a nonlinear function of its input; use RLeaky or RSynaptic, {_ELSEWHERE}"

_BY_STEP = ("Alpha", "Lapicque", "Leaky", "RLeaky", "RSynaptic", "Synaptic")
FACTS: Mapping[str, FactsOf | None] = {
    **{f"snntorch._neurons.{name.lower()}.{name}": None for name in _BY_STEP},
    "snntorch._neurons.deltaleaky.DeltaLeaky": delta_leaky,
    "snntorch._neurons.linearleaky.LinearLeaky": linear_leaky,
    "snntorch._neurons.stateleaky.StateLeaky": state_leaky,
}

REFUSED: Mapping[str, str] = {
    "snntorch._neurons.associative.AssociativeLeaky": (
        f"its potential is a product of projections of its input; use StateLeaky or LinearLeaky, {_ELSEWHERE}"
    ),
    "snntorch._neurons.leakyparallel.LeakyParallel": (
        "it cuts its potential off at 0, so this cannot fluctuate about a mean; LinearLeaky takes the same weights, is "
        "as parallel and does not rectify"
    ),
    "snntorch._neurons.neurons.SpikingNeuron": (
        "it is a class of your own; describe it with neurons={YourNeuron: fluctua.network.ProbedNeuron(...)}"
    ),
    "snntorch._neurons.sconv2dlstm.SConv2dLSTM": _GATED,
    "snntorch._neurons.slstm.SLSTM": _GATED,
}

FRAMEWORK = Framework(
    package="snntorch",
    tested="1.0.0",
    facts=FACTS,
    refused=REFUSED,
    layout=layout,
    reset=reset,
    stepping=Cells(),
    sharpness=sharpness,
)
