"""Norse: `LIFCell`, one step at a time. Its sequence modules take `x[t]` of a tensor that needs a gradient, and are
25 times slower on W1."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from workloads import DT, TAU_MEM, TAU_SYN, Workload

from contestants.stepping import Advance, step_by_step
from contestants.steps import Step

GAIN = 6.0


def build(workload: Workload, variant: str) -> Step:
    norse: Any = import_module("norse.torch")
    inverse = {"tau_mem_inv": torch.tensor(1 / TAU_MEM), "tau_syn_inv": torch.tensor(1 / TAU_SYN)}
    cell: Any = norse.LIFCell(norse.LIFParameters(**inverse), dt=DT)

    def start() -> Advance:
        state: Any = None

        def advance(current: Tensor) -> Tensor:
            nonlocal state
            spikes, state = cell(current, state)
            return spikes  # type: ignore[no-any-return]

        return advance

    return step_by_step(workload, start, GAIN)
