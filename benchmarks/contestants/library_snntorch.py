"""snnTorch: `Synaptic` with its default reset (subtract) and the surrogate of its tutorials.

- "eager": as it is.
- "compiled": one time step of the neuron through `torch.compile`; loops of many steps take minutes to compile.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from workloads import DECAY_MEM, DECAY_SYN, Workload

from contestants.stepping import Advance, layer_by_layer, step_by_step
from contestants.steps import Step

GAIN = 0.7


def build(workload: Workload, variant: str) -> Step:
    snn, surrogate = import_module("snntorch"), import_module("snntorch.surrogate")
    cell: Any = snn.Synaptic(alpha=DECAY_SYN, beta=DECAY_MEM, spike_grad=surrogate.fast_sigmoid(slope=25))
    one_step = torch.compile(cell, dynamic=False) if variant == "compiled" else cell

    def start() -> Advance:
        state: tuple[Tensor, ...] = ()

        def advance(current: Tensor) -> Tensor:
            nonlocal state
            spikes, *rest = one_step(current, *(state or (torch.zeros_like(current), torch.zeros_like(current))))
            state = tuple(rest)
            return spikes  # type: ignore[no-any-return]

        return advance

    order = layer_by_layer if variant == "compiled" else step_by_step
    return order(workload, start, GAIN)
