"""The facts of SpikingJelly's neurons (`spikingjelly.activation_based.neuron`, and the older `clock_driven`).

`tau` counts time steps. Most start at `v_reset`, or 0 under soft reset (`v_reset=None`), and return to it.
"""

import copy
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from fluctua.network.adapters.framework import FactsOf, Framework, Sharpness, States, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, numbers_of
from fluctua.network.run import Layout
from fluctua.theory import PspKernel


def non_spiking_if(module: Any, timing: Timing) -> Neuron:
    """A readout, which takes whole sequences only."""
    return Neuron((PspKernel.integrator(1.0, timing.unit, timing.trial),), None)


def non_spiking_lif(module: Any, timing: Timing) -> Neuron:
    """A readout, which takes whole sequences only."""
    leak = numbers_of(1 / module.tau)
    return Neuron((PspKernel.one_pole(leak, 1 - leak, timing.unit),), None)


_HOME = "spikingjelly.activation_based.neuron"


class Nodes(Stepping):
    """State in what SpikingJelly calls memories."""

    def names(self, module: Any) -> tuple[str, ...]:
        """See `Stepping.names`."""
        return _names(type(module), tuple(module._memories_rv.items()))  # type: ignore[arg-type]

    def options(self, module: Any) -> tuple[str, ...]:
        return _options(type(module)) or ()  # type: ignore[arg-type]

    def call(self, module: Any, x: Tensor) -> Tensor:
        if not _is_clock_driven(module):
            output: Tensor = module.single_step_forward(x)
        elif layout(module).stepwise:
            output = type(module).forward(module, x)
        else:
            output = type(module).forward(module, x.unsqueeze(0)).squeeze(0)
        return output

    def places(self, module: Any) -> tuple[tuple[dict[str, Any], str], ...]:
        """See `Stepping.places`."""
        return tuple((module._memories, name) for name in self.names(module))

    def rest(self, module: Any, x: Tensor) -> States:
        base, theirs = _running_sequences(type(module))  # type: ignore[arg-type]
        if base and not theirs and layout(module).time == "first" and not self.watched(module):
            raise UnsupportedNeuronError(
                f"in step mode m SpikingJelly runs the sequences of {base} and never single_step_functional_forward: "
                "override multi_step_functional_forward too, or set step_mode s"
            )
        return tuple(float(module._memories_rv[name]) for name in self.names(module))

    def watched(self, module: Any) -> str | None:
        if getattr(module, "store_v_seq", False):
            return "it stores its potentials (store_v_seq)"
        base, theirs = _running_sequences(type(module))  # type: ignore[arg-type]
        if base and theirs and layout(module).time == "first":
            return f"in step mode m it runs the sequences of {base}, which are not those of its step"
        return None


@lru_cache(maxsize=256)
def _names(kind: Any, memories: tuple[tuple[str, Any], ...]) -> tuple[str, ...]:
    constants = _options(kind)
    if constants is None:
        raise UnsupportedNeuronError(f"{kind.__name__} takes no single steps")
    return tuple([name for name, rest in memories if isinstance(rest, (float, int)) and name not in constants])


@cache
def _running_sequences(kind: Any) -> tuple[str | None, bool]:
    """The base whose sequences run in place of the single step that a subclass overrides, and if both are theirs."""
    names = "single_step_functional_forward", "multi_step_functional_forward", "multi_step_forward"
    single, whole, loop = (next((c for c in kind.__mro__ if name in vars(c)), object) for name in names)
    differ = single is not whole and issubclass(single, whole) and issubclass(whole, loop)
    found = whole.__name__ if differ and whole.__module__.startswith(_HOME) else None
    return found, single.__module__.startswith("spikingjelly.")


@cache
def _options(kind: Any) -> tuple[str, ...] | None:
    """What a class keeps among its states though it is none; None where it takes no single step."""
    if _is_clock_driven(kind):
        return "v_threshold", "v_reset"
    return () if hasattr(kind, "single_step_forward") else None


class Potentials(Layout):
    """A readout's: it returns a list of the potentials of all steps, or what `decode` makes of them."""

    def spikes(self, module: Any, output: Any) -> Tensor:
        """The potentials `[T, B, *N]`, or their summary `[1, B, *N]`."""
        return torch.stack(output) if isinstance(output, list) else output.unsqueeze(0)

    def answer(self, module: Any, output: Any, spikes: Tensor) -> Any:
        return list(spikes) if isinstance(output, list) else spikes[0]


def layout(module: Any) -> Layout:
    """`[T, B, *N]` in step mode "m", `[B, *N]` in "s"."""
    if hasattr(module, "decode"):
        return Potentials("first")
    if _is_clock_driven(module):
        return Layout(
            "first" if any(kind.__name__.startswith("MultiStep") for kind in type(module).__mro__) else "step"
        )
    return Layout("first" if module.step_mode == "m" else "step")


def _is_clock_driven(module: Any) -> bool:
    """Whether it is of the older interface, `spikingjelly.clock_driven`, whose classes take a step or a sequence."""
    return not hasattr(module, "step_mode")


def sharpness(module: Any) -> Sharpness | None:
    """`alpha` of its `surrogate_function`, which neurons share by default."""
    function = getattr(module, "surrogate_function", None)
    if not isinstance(getattr(function, "alpha", None), int | float):
        return None

    def put(value: float) -> None:
        own: Any = copy.deepcopy(function)
        own.alpha = value
        module.surrogate_function = own

    return Sharpness("alpha", float(function.alpha), put)  # type: ignore[union-attr]


def reset(module: Any) -> None:
    """All states to their initial values; readouts keep none."""
    if hasattr(module, "reset"):
        module.reset()


_INSTEAD = "use LIFNode or another linear neuron"

_BY_STEP = (
    "base_node.BaseNode base_node.SimpleBaseNode ilif.ILIFNode integrate_and_fire.ActivationAwareIFNode "
    "integrate_and_fire.HalfThresholdIFNode integrate_and_fire.IFNode integrate_and_fire.SimpleIFNode lif.LIFNode "
    "lif.SimpleLIFNode lif_variants.ComplementaryLIFNode lif_variants.CUBALIFNode lif_variants.LIAFNode "
    "nonlinear_if.QIFNode plif.ParametricLIFNode resonate.RAFNode"
)

_FACTS: dict[str, FactsOf | None] = {
    **dict.fromkeys(_BY_STEP.split()),
    "integrate_and_fire.NonSpikingIFNode": non_spiking_if,
    "lif.NonSpikingLIFNode": non_spiking_lif,
}

_REFUSED: dict[str, str] = {
    "adapt.AdaptBaseNode": f"its potential is not linear in its input and slowly adapts; {_INSTEAD}",
    "few_spike.FewSpikeNode": f"it codes a number in a few spikes and integrates nothing; {_INSTEAD}",
    "flexsn.FlexSN": "its step may be any function; describe it with "
    "neurons={FlexSN: fluctua.network.ProbedNeuron(...)}",
    "inter_layer_connection.ILCBaseNode": f"it adds to its input in place; {_INSTEAD}",
    "lif_variants.GatedLIFNode": f"its gain differs from step to step and its potential drifts; {_INSTEAD}",
    "lif_variants.KLIFNode": f"it rectifies its potential, which then cannot fluctuate around 0; {_INSTEAD}",
    "mpbn.MPBNBaseNode": "a batch norm inside sets its potential, not the weights; use LIFNode behind a batch norm",
    "nonlinear_if.EIFNode": "with its usual constants it has no rest and spikes without input; use QIFNode or LIFNode",
    "online_learning.OTTTLIFNode": "it hands traces on beside its spikes; initialise the same network of "
    "LIFNodes and load its state_dict",
}
for _those, _why in (
    ("dsr.DSRIFNode dsr.DSRLIFNode", "its gradient is that of a rate, not of spikes in time"),
    ("noisy.NoisyBaseNode noisy.NoisyNonSpikingBaseNode", "it adds noise of its own to every current"),
    ("psn.MaskedPSN psn.PSN psn.SlidingPSN", "it weighs its input over time by a learnt matrix"),
    ("spikezip.STBIFNode ternary.TernaryIFNode ternary.TernaryLIFNode", "it emits spikes of either sign"),
):
    _REFUSED |= dict.fromkeys(_those.split(), f"{_why}; {_INSTEAD}")


def _full_names(table: dict[str, Any]) -> dict[str, Any]:
    """By full name, with the class's file in it and without, as in 0.0.0.0.14, which had one file."""
    return {f"{_HOME}.{name}": entry for key, entry in table.items() for name in (key, key.rpartition(".")[2])}


FRAMEWORK = Framework(
    package="spikingjelly",
    tested="2.0.0",
    facts={**_full_names(_FACTS), "spikingjelly.clock_driven.neuron.BaseNode": None},
    refused=_full_names(_REFUSED),
    layout=layout,
    reset=reset,
    stepping=Nodes(),
    sharpness=sharpness,
    stateful=frozenset(
        {"spikingjelly.activation_based.base.MemoryModule", "spikingjelly.clock_driven.base.MemoryModule"}
    ),
)
