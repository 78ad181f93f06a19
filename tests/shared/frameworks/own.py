"""Fluctua's own neurons, as one framework more."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.layers import OverTime, Recurrent
from fluctua.network.adapters.own import FRAMEWORK
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF, from_step, spike
from fluctua.neurons.current_based import CurrentBased
from shared.circuit_loops import late
from shared.frameworks.cases import (
    FAR,
    INPUT,
    Calls,
    FrameworkCases,
    NetworkCase,
    NeuronCase,
    by_hooks,
    chain,
    named_classes,
)
from shared.spikes import spikes

DT, N = 1e-3, 3
TAUS = torch.linspace(8e-3, 40e-3, N)


def swinging(x: Tensor, state: tuple[Tensor, ...], c: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A damped oscillation about a rest of its own; what it hears moves the hidden part of its state."""
    u, v = state
    out = spike(u - c["threshold"])
    after = c["decay"] * (u - c["rest"]) + c["pull"] * v + c["rest"], c["decay"] * v - c["pull"] * (u - c["rest"]) + x
    return out, (after[0] - c["threshold"] * out.detach(), after[1])


def own_step() -> Any:
    constants: dict[str, float | Tensor] = {
        "decay": 0.93,
        "pull": torch.linspace(0.05, 0.2, N),
        "rest": -0.2,
        "threshold": 0.8,
    }
    return from_step(swinging, constants=constants, rest=(-0.2, 0.0), dt=DT)


MADE: dict[str, Callable[[], Any]] = {
    "LIF": lambda: LIF(20e-3, 10e-3, DT, threshold=0.7),
    "LIF, by neuron": lambda: LIF(TAUS, TAUS.flip(0), DT),
    "LIF, equal time constants": lambda: LIF(10e-3, 10e-3, DT),
    "LIF, no synapse": lambda: LIF(20e-3, None, DT),
    "adaptive LIF, threshold": lambda: AdaptiveLIF(20e-3, 10e-3, dt=DT),
    "adaptive LIF, current": lambda: AdaptiveLIF(20e-3, 10e-3, dt=DT, kind="current", coupling=0.5),
    "exc/inh LIF": lambda: ExcInhLIF(20e-3, 5e-3, 10e-3, DT),
    "current based": lambda: CurrentBased(0.9, 0.5, DT, decay_syn=0.8, leak=0.1, threshold=1.0),
    "from a step": own_step,
    "LI": lambda: LI(20e-3, 10e-3, DT),
    "LI, no synapse": lambda: LI(20e-3, None, DT),
}
NEURONS = {name: NeuronCase(make) for name, make in MADE.items()}


def run(neuron: Any, *currents: Tensor) -> tuple[Tensor, Tensor]:
    result = neuron.simulate(*currents)
    if isinstance(neuron, CurrentBased):  # compares with threshold what the input of the step has made of it
        return result.output, torch.cat([result.potential[1:], result.state[0][None]])
    return result.output, result.potential


def free(neuron: Any, *currents: Tensor) -> Tensor:
    if getattr(neuron, "threshold", None) is not None:
        neuron.threshold.fill_(FAR)
    return run(neuron, *currents)[1]


def live() -> tuple[Any, Callable[[], Any], list[float]]:
    cell = LIF(20e-3, None, DT, learn_tau=True)
    return cell, lambda: cell.log_tau_mem.data.fill_(math.log(DT / math.log(2))), [0.0, 1.0, 0.5, 0.25]


def trains() -> Tensor:
    return spikes(60, 24, 48, p=0.05, seed=1)


def frames() -> Tensor:
    return spikes(60, 8, 2, 12, 12, seed=1)


def called(model: Any, x: Tensor) -> Any:
    return model(x)


def deep() -> nn.Module:
    hidden = (m for _ in range(4) for m in (nn.Linear(48, 48, bias=False), LIF(dt=DT)))
    return nn.Sequential(*hidden, nn.Linear(48, 10), LI(dt=DT))


def recurrent() -> nn.Module:
    return nn.Sequential(
        nn.Linear(48, 48), Recurrent(LIF(dt=DT), nn.Linear(48, 48, bias=False)), nn.Linear(48, 10), LI(dt=DT)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        OverTime(nn.Conv2d(2, 8, 3, padding=1)),
        LIF(20e-3, None, DT),
        OverTime(nn.AvgPool2d(2)),
        OverTime(nn.Conv2d(8, 8, 3, padding=1)),
        AdaptiveLIF(dt=DT),
        nn.Flatten(2),
        nn.Linear(8 * 36, 10),
        LI(dt=DT),
    )


def free_potential(module: Any, currents: Calls, outputs: Calls) -> Tensor:
    (x,), (fired,) = currents, outputs
    if isinstance(module, Recurrent):
        x, module = x + late(module.weight(fired)), module.cell
    if not isinstance(module, LIF):
        return run(module, x)[1]
    theta = module.threshold.clone()
    potential = free(module, x) / theta
    module.threshold.copy_(theta)
    return potential


NETWORKS = {
    "deep": NetworkCase(deep, trains, called, chain(*(str(k) for k in range(10)))),
    "recurrent": NetworkCase(
        recurrent,
        trains,
        called,
        {"1": {"0.weight": INPUT, "1.weight.weight": ("1",)}, "3": {"2.weight": ("1",)}},
        slack=0.1,
    ),
    "convolutional": NetworkCase(convolutional, frames, called, chain("0.module", "1", "3.module", "4", "6", "7")),
}

CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    partial(named_classes, FRAMEWORK),
    NETWORKS,
    by_hooks(free_potential),
    kept="recurrent",
    rated=("deep", 8.0, None),
    width=N,
    live={"tau_mem": live},
    elsewhere=(lambda: Recurrent(LIF(), nn.Linear(N, N)),),  # a circuit
)
