"""sinabs: the single step of its `LIF`, with one spike a step and time constants that are not learnt.

As shipped its layers take `x[:, t]` of a tensor that needs a gradient, and are 33 times slower than *matmul-only* on
W1; called step by step, as here, they are not.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from workloads import DECAY_MEM, DECAY_SYN, Workload

from contestants.stepping import Advance, step_by_step
from contestants.steps import Step

GAIN = 0.8


def build(workload: Workload, variant: str) -> Step:
    one_step: Any = import_module("sinabs.layers.functional.lif").lif_forward_single
    activation: Any = import_module("sinabs.activation")
    options = {
        "alpha_mem": torch.tensor(DECAY_MEM),
        "alpha_syn": torch.tensor(DECAY_SYN),
        "spike_threshold": torch.tensor(1.0),
        "spike_fn": activation.SingleSpike,
        "reset_fn": activation.MembraneSubtract(),
        "surrogate_grad_fn": activation.SingleExponential(),
        "min_v_mem": None,
        "norm_input": False,
    }

    def start() -> Advance:
        state: dict[str, Tensor] = {}

        def advance(current: Tensor) -> Tensor:
            nonlocal state
            state = state or {"v_mem": torch.zeros_like(current), "i_syn": torch.zeros_like(current)}
            spikes, state = one_step(current, state=state, **options)
            return spikes  # type: ignore[no-any-return]

        return advance

    return step_by_step(workload, start, GAIN)
