"""The facts of sinabs's neurons.

Time constants count time steps. One step of the free potential, with `d` and `a` the decays per step of synapse and
membrane and `G = 1 - a` under `norm_input`, else 1 (`sinabs.layers.functional`)::

    i <- d (i + x), or x without tau_syn        v <- a v + G i

ALIF keeps `G i` for the next step where LIF keeps `i`, so that its synapse decays by `G d`. Both are perfect
integrators at `a = 1` (IAF).
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fluctua.network.adapters.framework import DRIFTS, FactsOf, Framework, Sharpness, Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron, PopulationSpec, inner_pathway
from fluctua.network.run import Layout
from fluctua.neurons.leaky import numbers
from fluctua.theory import PspKernel
from fluctua.theory.psp import TwoStateKernel


def lif(module: Any, timing: Timing) -> Neuron:
    """Leaky or perfect integrator; never spikes where it has no `spike_fn`."""
    return _neuron(module, _kernel(module, timing, keeps_gain=False), module.spike_threshold)


def alif(module: Any, timing: Timing) -> Neuron:
    """Before its first spike: only spikes move its threshold."""
    return _neuron(module, _kernel(module, timing, keeps_gain=True), module.b0)


def lif_recurrent(module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
    """Hears its own spikes of the last step through `rec_connect`."""
    return _hearing_itself(module, lif(module, timing))


def alif_recurrent(module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
    """Hears its own spikes of the last step through `rec_connect`."""
    return _hearing_itself(module, alif(module, timing))


def layout(module: Any) -> Layout:
    """`[B, T, *N]`; the Squeeze variants `[B * T, *N]`, of which they know B, T, or both (-1: not known)."""
    if not hasattr(module, "num_timesteps"):
        return Layout("second")
    samples, steps = (size if size > 0 else None for size in (module.batch_size, module.num_timesteps))
    return Layout("merged", samples, steps)


class Layers(Stepping):
    """State in buffers."""

    def names(self, module: Any) -> tuple[str, ...]:
        """See `Stepping.names`."""
        if hasattr(module, "rec_connect"):
            raise UnsupportedNeuronError(f"{type(module).__name__} hears itself")
        names = [name for name, _ in module.named_buffers(recurse=False)]
        return ("v_mem", *(name for name in names if name != "v_mem"))

    def call(self, module: Any, x: Tensor) -> Tensor:
        """See `Stepping.call`."""
        output: Tensor = type(module).forward(module, x.unsqueeze(1))
        return output.squeeze(1)

    def watched(self, module: Any) -> str | None:
        """See `Stepping.watched`."""
        return "it records its states (record_states)" if module.record_states else None


def sharpness(module: Any) -> Sharpness | None:
    """The width of its `surrogate_grad_fn`, which modules may share."""
    surrogate: Any = module.surrogate_grad_fn
    names = {f.name for f in fields(surrogate)} if is_dataclass(surrogate) else set[str]()
    name = next((n for n in ("grad_width", "sigma", "window") if n in names), None)
    if name is None:
        return None

    def put(value: float) -> None:
        module.surrogate_grad_fn = replace(surrogate, **{str(name): value})

    return Sharpness(name, float(getattr(surrogate, name)), put)


def reset(module: Any) -> None:
    """All states to zero."""
    module.reset_states()


def _kernel(module: Any, timing: Timing, *, keeps_gain: bool) -> PspKernel:
    a = numbers(module.alpha_mem_calculated)
    gain = 1 - a if module.norm_input else 1 + 0 * a
    steps = timing.trial if (a == 1).any() else None
    if module.alpha_syn_calculated is None:
        b, jump = 0 * a, gain
    else:
        d = numbers(module.alpha_syn_calculated)
        b, jump = (gain * d if keeps_gain else d), gain * d
    return TwoStateKernel.make(
        timing.unit, a=a, b=b, coupling=jump * b, jump_mem=jump, jump_syn=1.0, delay=0, steps=steps
    )


def _neuron(module: Any, kernel: PspKernel, threshold: Any) -> Neuron:
    if getattr(module.reset_fn, "reset_value", 0.0):
        raise UnsupportedNeuronError(
            f"MembraneReset of sinabs adds its reset_value ({module.reset_fn.reset_value:g}) at every step, not only "
            "after a spike, so the potential drifts: use MembraneReset() or MembraneSubtract()"
        )
    notes = [DRIFTS] if kernel.steps is not None else []
    if module.min_v_mem is not None:
        notes.append(_cut(module, float(numbers(torch.as_tensor(module.min_v_mem)).max())))
    theta = None if module.spike_fn is None else threshold
    return Neuron.spiking((kernel,), theta, note="; it ".join(notes) or None)


def _cut(module: Any, lowest: float) -> str:
    """What `min_v_mem` does.

    Raises:
        UnsupportedNeuronError: it keeps the potential from falling below its rest.
    """
    if lowest >= 0:
        raise UnsupportedNeuronError(
            f"min_v_mem = {lowest:g} keeps the potential of {type(module).__name__} from falling below its rest, so "
            "it cannot fluctuate around it: take min_v_mem=-spike_threshold or lower"
        )
    return f"cuts its potential off at min_v_mem = {lowest:g}; mu_U and sigma_U are those without the cut"


def _hearing_itself(module: Any, neuron: Neuron) -> Mapping[str, PopulationSpec]:
    synapse = inner_pathway(module.rec_connect, "", 0, partial(_recurrent_current, module.rec_connect))
    return {"": PopulationSpec(neuron, module, (0,), (synapse,))}


def _recurrent_current(connection: Any, spikes: Tensor) -> Tensor:
    """Spikes `[T, B, *N]` -> the current that they cause, one step late."""
    current: Tensor = connection(spikes.flatten(0, 1)).reshape(spikes.shape)
    return torch.cat([torch.zeros_like(current[:1]), current[:-1]])


FACTS: Mapping[str, FactsOf] = {  # the Squeeze variants and ExpLeak are subclasses
    "sinabs.layers.alif.ALIF": alif,
    "sinabs.layers.alif.ALIFRecurrent": alif_recurrent,
    "sinabs.layers.iaf.IAFRecurrent": lif_recurrent,
    "sinabs.layers.lif.LIF": lif,
    "sinabs.layers.lif.LIFRecurrent": lif_recurrent,
}

FRAMEWORK = Framework(
    package="sinabs",
    tested="3.1.3",
    facts=FACTS,
    layout=layout,
    reset=reset,
    stepping=Layers(),
    sharpness=sharpness,
)
