"""Circuits written out step by step, from the equations alone: what the layers are tested against."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.layers import DaleLayer, Recurrent
from fluctua.layers.circuit import Circuit
from fluctua.neurons import AdaptiveLIF, ExcInhLIF
from fluctua.neurons.leaky import Firing, LeakyNeuron


class Heaviside(torch.autograd.Function):
    """1 where x > 0; in backward the paper's surrogate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = grads[0] / (20 * x.abs() + 1) ** 2
        return gradient


def fired(x: Tensor) -> Tensor:
    return Heaviside.apply(x)  # type: ignore[no-untyped-call,no-any-return]


class ByHand:
    """One population: `step(current)` or `step(exc, inh)` gives the spikes of one step and moves on by one."""

    def __init__(self, cell: Firing) -> None:
        self.cell = cell
        self.u: Any = 0.0
        self.i: Any = 0.0
        self.i_inh: Any = 0.0
        self.w: Any = 0.0

    def step(self, current: Tensor, inh: Tensor | None = None) -> Tensor:
        cell: Any = self.cell
        a = torch.exp(-cell.dt / cell.tau_mem)
        adaptive = isinstance(cell, AdaptiveLIF)
        raised = self.w if adaptive and cell.kind == "threshold" else 0.0
        theta = cell.threshold + raised
        out = fired(self.u - theta + torch.zeros_like(current))
        if isinstance(cell, ExcInhLIF):
            v = a * self.u + (1 - a) * (self.i - self.i_inh)
            self.i_inh = torch.exp(-cell.dt / cell.tau_inh) * self.i_inh + (0.0 if inh is None else inh)
            tau_syn: Tensor | None = cell.tau_exc
        else:
            tau_syn = cell.tau_syn
            v = a * self.u + (current if tau_syn is None else (1 - a) * self.i)
        if adaptive:
            rho = torch.exp(-cell.dt / cell.tau_adapt)
            pull = cell.coupling * self.u if cell.kind == "current" else 0.0
            self.w = rho * self.w + (1 - rho) * (pull + cell.beta * out)
            if cell.kind == "current":
                v = v - (1 - a) * self.w
        reset = out if cell.differentiable_reset else out.detach()
        self.u = v * (1 - reset) if cell.reset == "zero" else v - theta * reset
        if tau_syn is not None:
            self.i = torch.exp(-cell.dt / tau_syn) * self.i + current
        return out


def recurrent_by_hand(cell: nn.Module, weight: nn.Module, current: Tensor) -> Tensor:
    """Spikes of a population that hears its own of the step before through `weight`."""
    assert isinstance(cell, Firing)
    population, outputs = ByHand(cell), list[Tensor]()
    for x in current.unbind(0):
        outputs.append(population.step(x + weight(outputs[-1]) if outputs else x))
    return torch.stack(outputs)


def dale_by_hand(layer: DaleLayer, x: Tensor) -> dict[str, Tensor]:
    """Spikes of both populations of a layer under Dale's law, by matrices alone."""
    w = {name: p for name, p in layer.named_parameters() if p.ndim == 2}
    exc, inh = ByHand(layer.circuit.exc), ByHand(layer.circuit.inh)
    outputs: dict[str, list[Tensor]] = {"exc": [], "inh": []}
    for now in x.unbind(0):
        into_exc, into_inh = now @ w["input_exc.weight"].T, now @ w["input_inh.weight"].T
        from_exc = from_inh = None
        if outputs["exc"]:
            e, i = outputs["exc"][-1], outputs["inh"][-1]
            from_exc, from_inh = i @ w["circuit.inh_exc.weight"].T, i @ w["circuit.inh_inh.weight"].T
            if "circuit.exc_exc.weight" in w:
                into_exc = into_exc + e @ w["circuit.exc_exc.weight"].T
                into_inh = into_inh + e @ w["circuit.exc_inh.weight"].T
        outputs["exc"].append(exc.step(into_exc, from_exc))
        outputs["inh"].append(inh.step(into_inh, from_inh))
    return {name: torch.stack(spikes) for name, spikes in outputs.items()}


def late(current: Tensor) -> Tensor:
    """What arrives one step later; in the first step nothing does."""
    return torch.cat([torch.zeros_like(current[:1]), current[:-1]])


def applied(weight: nn.Module, s: Tensor) -> Tensor:
    result: Tensor = weight(s.flatten(0, 1)).unflatten(0, s.shape[:2])
    return result


def never(cell: nn.Module) -> Any:
    """The same neuron with its threshold out of reach."""
    free = copy.deepcopy(cell)
    assert isinstance(free.threshold, Tensor)
    free.threshold.fill_(1e9)
    return free


def free_potentials(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Of each population of a layer called with `x`: its neurons without threshold, fed by the actual spikes."""
    return [sum(parts[1:], parts[0]) for parts in potential_parts(layer, x)]


def potential_parts(layer: nn.Module, x: Tensor) -> list[list[Tensor]]:
    """Their parts: from outside, from each other's excitation if there is any, from inhibition."""
    if isinstance(layer, Recurrent):
        free = never(layer.cell)
        return [[free.simulate(x).potential, free.simulate(late(applied(layer.weight, layer(x)))).potential]]
    if isinstance(layer, DaleLayer):
        circuit, outside = layer.circuit, {"exc": layer.input_exc(x), "inh": layer.input_inh(x)}
        fired, found = populations_of(circuit, *outside.values()), []
        for name, cell in circuit.cells.items():
            ways = {s.source: s.module for s in circuit.synapses if s.target == name}
            free, inhibition = never(cell), late(ways["inh"](fired["inh"]))
            excitation = [outside[name], *(late(ways[k](fired[k])) for k in ways if k == "exc")]
            parts = [free.simulate(current).potential for current in excitation]
            found.append([*parts, free.simulate(torch.zeros_like(inhibition), inhibition).potential])
        return found
    return [[layer.simulate(x).output]] if isinstance(layer, LeakyNeuron) else []


def populations_of(circuit: Circuit, *currents: Tensor) -> dict[str, Tensor]:
    """Spikes of all populations, as hooks on their taps see them."""
    seen: dict[str, Tensor] = {}

    def watching(name: str) -> Any:
        return lambda module, args, output: seen.update({name: output})

    handles = [tap.register_forward_hook(watching(name)) for name, tap in circuit.spikes.items()]
    circuit(*currents)
    for handle in handles:
        handle.remove()
    return seen
