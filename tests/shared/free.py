"""What reaches neurons when a user runs the model, and their potential without a threshold."""

from typing import Any

import torch
from torch import Tensor, nn

from fluctua.neurons import LIF
from shared.circuit_loops import never


def free_potentials(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Of all LIF neurons by their own simulation, their thresholds out of reach: `[T, B, *N]` by name."""
    currents: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        return lambda module, args: currents.__setitem__(name, args[0].detach().clone())

    neurons = {name: m for name, m in model.named_modules() if isinstance(m, LIF)}
    handles = [m.register_forward_pre_hook(noting(name)) for name, m in neurons.items()]
    with torch.no_grad():
        model(batch)
        for handle in handles:
            handle.remove()
        return {name: never(m).simulate(currents[name]).potential for name, m in neurons.items() if name in currents}


def sigma(u: Tensor) -> float:
    """Standard deviation over time, samples and neurons."""
    return float(u.std(correction=0))
