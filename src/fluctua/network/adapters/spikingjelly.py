"""The facts of SpikingJelly's neurons (`spikingjelly.activation_based.neuron`, and the older `clock_driven`).

`tau` counts time steps. Most start at `v_reset`, or 0 under soft reset (`v_reset=None`), and come back to it. What
leaks does so by Euler steps: `v <- v - (v - v_reset) / tau + x`, with x divided by `tau` under `decay_input`.
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.network.adapters.framework import DRIFTS, FactsOf, Framework, Sharpness, States, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, numbers_of
from fluctua.network.run import Layout
from fluctua.theory import PspKernel


def integrate_and_fire(module: Any, timing: Timing) -> Neuron:
    """`v <- v + x`."""
    return _integrator(timing, module.v_threshold, _rest(module))


def half_threshold(module: Any, timing: Timing) -> Neuron:
    """The same from half the threshold on."""
    return _integrator(timing, module.v_threshold, float(numbers_of(module.v_threshold).mean()) / 2)


def activation_aware(module: Any, timing: Timing) -> Neuron:
    """The same with a threshold that an offset lowers, channel by channel."""
    return _integrator(timing, module.v_threshold - module.v_offset, _rest(module))


def non_spiking_if(module: Any, timing: Timing) -> Neuron:
    """A readout."""
    return _integrator(timing, None, 0.0)


def lif(module: Any, timing: Timing) -> Neuron:
    """Leaky integrator."""
    return Neuron.spiking((_leaky(1 / module.tau, module.decay_input, timing),), module.v_threshold, _rest(module))


def parametric(module: Any, timing: Timing) -> Neuron:
    """Its `1 / tau` is learnt."""
    leak = module.w.sigmoid()
    return Neuron.spiking((_leaky(leak, module.decay_input, timing),), module.v_threshold, _rest(module))


def integer_spikes(module: Any, timing: Timing) -> Neuron:
    """Emits `round(v / v_threshold)` spikes at once, so the first at half of `v_threshold`."""
    note = (
        f"the threshold is half of v_threshold = {float(numbers_of(module.v_threshold).mean()):g}, from which on its "
    )
    note += "counts are rounded to 1"
    return Neuron.spiking((_leaky(1 / module.tau, False, timing),), module.v_threshold / 2, note=note)


def complementary(module: Any, timing: Timing) -> Neuron:
    """Its complementary potential acts at spikes only."""
    return Neuron.spiking((_leaky(1 / module.tau, False, timing),), module.v_threshold)


def analog(module: Any, timing: Timing) -> Neuron:
    """Resets as a LIF but emits a function of its potential."""
    note = "its output is graded, so its rate and silence in the report are those of a mean output"
    return Neuron.spiking(
        (_leaky(1 / module.tau, module.decay_input, timing),), module.v_threshold, _rest(module), note=note
    )


def non_spiking_lif(module: Any, timing: Timing) -> Neuron:
    """A readout."""
    return Neuron((_leaky(1 / module.tau, True, timing),), None)


def current_based(module: Any, timing: Timing) -> Neuron:
    """What it calls decay is what remains after a step. It decays to 0, wherever it is reset to."""
    kernel = PspKernel.two_poles(1.0, module.v_decay, module.c_decay, timing.unit)
    return Neuron.spiking((kernel,), module.v_threshold)


def quadratic(module: Any, timing: Timing) -> Neuron:
    """Linearised: `v <- v + (x + a0 (v - v_rest) (v - v_c)) / tau` near `v_rest`.

    Raises:
        UnsupportedNeuronError: it leaves `v_rest` by itself.
    """
    a = 1 - module.a0 * (module.v_c - module.v_rest) / float(module.tau)
    if not 0 <= a < 1:
        raise UnsupportedNeuronError(
            f"QIFNode does not come to rest at v_rest = {module.v_rest:g}, near which a step multiplies its distance "
            f"from it by {a:g}: choose v_c above v_rest, and a0 (v_c - v_rest) up to tau"
        )
    note = f"linearised at its rest: the higher its potential, the less it leaks, and from v_c = {module.v_c:g} on it "
    note += "rises by itself"
    return Neuron.spiking(
        (PspKernel.one_pole(1 / module.tau, a, timing.unit),), module.v_threshold, module.v_rest, note=note
    )


def resonate_and_fire(module: Any, timing: Timing) -> Neuron:
    """`eps[k] = exp(b dt k) sin(omega dt k)`, in steps; sampled until 1e-8 of it is left."""
    k = np.arange(math.ceil(math.log(1e-8) / (module.b * module.dt)) + 2)
    values = np.exp(module.b * module.dt * k) * np.sin(module.omega * module.dt * k)
    return Neuron.spiking((PspKernel.from_response(values, timing.unit),), module.v_threshold)


class Nodes(Stepping):
    """State in what SpikingJelly calls memories."""

    def names(self, module: Any) -> tuple[str, ...]:
        """See `Stepping.names`."""
        if not hasattr(module, "single_step_forward") and not _is_clock_driven(module):
            raise UnsupportedNeuronError(f"{type(module).__name__} takes no single step")
        constants = self.options(module)
        memories = module._memories_rv.items()
        return tuple(name for name, rest in memories if isinstance(rest, float | int) and name not in constants)

    def options(self, module: Any) -> tuple[str, ...]:
        """See `Stepping.options`."""
        return ("v_threshold", "v_reset") if _is_clock_driven(module) else ()

    def call(self, module: Any, x: Tensor) -> Tensor:
        """See `Stepping.call`."""
        if not _is_clock_driven(module):
            output: Tensor = module.single_step_forward(x)
        elif layout(module).stepwise:
            output = type(module).forward(module, x)
        else:
            output = type(module).forward(module, x.unsqueeze(0)).squeeze(0)
        return output

    def rest(self, module: Any, x: Tensor) -> States:
        """See `Stepping.rest`."""
        return tuple(float(module._memories_rv[name]) for name in self.names(module))

    def watched(self, module: Any) -> str | None:
        """See `Stepping.watched`."""
        return "it stores its potentials (store_v_seq)" if getattr(module, "store_v_seq", False) else None


class Potentials(Layout):
    """A readout's: it returns a list of the potentials of all steps, or what `decode` makes of them."""

    def spikes(self, module: Any, output: Any) -> Tensor:
        """The potentials `[T, B, *N]`, or their summary `[1, B, *N]`."""
        return torch.stack(output) if isinstance(output, list) else output.unsqueeze(0)

    def answer(self, module: Any, output: Any, spikes: Tensor) -> Any:
        """See `Layout.answer`."""
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
    """`alpha` of its `surrogate_function`, which is one for all neurons made by default."""
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


def _rest(module: Any) -> float:
    return 0.0 if module.v_reset is None else float(module.v_reset)


def _integrator(timing: Timing, threshold: Any, rest: float) -> Neuron:
    kernel = PspKernel.integrator(1.0, timing.unit, timing.trial)
    return Neuron.spiking((kernel,), threshold, rest, note=DRIFTS)


def _leaky(leak: Any, decay_input: bool, timing: Timing) -> PspKernel:
    leak = numbers_of(leak)
    return PspKernel.one_pole(leak if decay_input else 1.0, 1 - leak, timing.unit)


_INSTEAD = "use LIFNode or another linear neuron"

_FACTS: dict[str, FactsOf | None] = {
    "base_node.BaseNode": None,
    "base_node.SimpleBaseNode": None,
    "ilif.ILIFNode": integer_spikes,
    "integrate_and_fire.ActivationAwareIFNode": activation_aware,
    "integrate_and_fire.HalfThresholdIFNode": half_threshold,
    "integrate_and_fire.IFNode": integrate_and_fire,
    "integrate_and_fire.NonSpikingIFNode": non_spiking_if,
    "integrate_and_fire.SimpleIFNode": integrate_and_fire,
    "lif.LIFNode": lif,
    "lif.NonSpikingLIFNode": non_spiking_lif,
    "lif.SimpleLIFNode": lif,
    "lif_variants.ComplementaryLIFNode": complementary,
    "lif_variants.CUBALIFNode": current_based,
    "lif_variants.LIAFNode": analog,
    "nonlinear_if.QIFNode": quadratic,
    "plif.ParametricLIFNode": parametric,
    "resonate.RAFNode": resonate_and_fire,
}

_REFUSED: dict[str, str] = {
    "adapt.AdaptBaseNode": f"its potential is not linear in its input and slowly adapts; {_INSTEAD}",
    "dsr.DSRIFNode": f"its gradient is that of a rate, not of spikes in time; {_INSTEAD}",
    "dsr.DSRLIFNode": f"its gradient is that of a rate, not of spikes in time; {_INSTEAD}",
    "few_spike.FewSpikeNode": f"it codes a number in a few spikes and integrates nothing; {_INSTEAD}",
    "flexsn.FlexSN": "its steps are any function; say what it is like by neurons={FlexSN: fluctua.ProbedNeuron(...)}",
    "inter_layer_connection.ILCBaseNode": f"it adds to its input in place; {_INSTEAD}",
    "lif_variants.GatedLIFNode": f"its gain differs from step to step and its potential drifts; {_INSTEAD}",
    "lif_variants.KLIFNode": f"it rectifies its potential, which cannot fluctuate around 0; {_INSTEAD}",
    "mpbn.MPBNBaseNode": "a batch norm inside sets its potential, not the weights; use LIFNode behind a batch norm",
    "noisy.NoisyBaseNode": f"it adds noise of its own to every current; {_INSTEAD}",
    "noisy.NoisyNonSpikingBaseNode": f"it adds noise of its own to every current; {_INSTEAD}",
    "nonlinear_if.EIFNode": "with its usual constants it has no rest and spikes without input; use QIFNode or LIFNode",
    "online_learning.OTTTLIFNode": "it hands traces on beside its spikes; initialise the same network of "
    "LIFNodes and load its state_dict",
    "psn.MaskedPSN": f"it weighs its input over time by a learnt matrix; {_INSTEAD}",
    "psn.PSN": f"it weighs its input over time by a learnt matrix; {_INSTEAD}",
    "psn.SlidingPSN": f"it weighs its input over time by a learnt matrix; {_INSTEAD}",
    "spikezip.STBIFNode": f"it emits spikes of either sign; {_INSTEAD}",
    "ternary.TernaryIFNode": f"it emits spikes of either sign; {_INSTEAD}",
    "ternary.TernaryLIFNode": f"it emits spikes of either sign; {_INSTEAD}",
}


def _full_names(table: dict[str, Any]) -> dict[str, Any]:
    """By full name: with the class's file in it, and without, as in 0.0.0.0.14, where one file had them all."""
    home = "spikingjelly.activation_based.neuron"
    return {f"{home}.{name}": entry for key, entry in table.items() for name in (key, key.rpartition(".")[2])}


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
