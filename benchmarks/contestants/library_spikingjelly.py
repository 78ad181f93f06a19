"""SpikingJelly, one step at a time; its multi-step mode is no faster for "delta" and 7 times slower for "cuba".

- "cuba": `CUBALIFNode`, with an exponential synapse as all the others have.
- "delta": `LIFNode`, the neuron of its tutorials, which has less to do.
"""

import logging
from importlib import import_module
from typing import Any

from workloads import DECAY_MEM, DECAY_SYN, DT, TAU_MEM, Workload

from contestants.stepping import Advance, step_by_step
from contestants.steps import Step

GAINS = {"cuba": 0.7, "delta": 3.0}


def build(workload: Workload, variant: str) -> Step:
    logging.disable(logging.WARNING)
    neuron, surrogate = (import_module(f"spikingjelly.activation_based.{name}") for name in ("neuron", "surrogate"))

    def start() -> Advance:
        options: dict[str, Any] = {"v_reset": 0.0, "surrogate_function": surrogate.ATan()}
        if variant == "cuba":
            cell: Advance = neuron.CUBALIFNode(c_decay=DECAY_SYN, v_decay=DECAY_MEM, v_threshold=1.0, **options)
        else:
            cell = neuron.LIFNode(tau=TAU_MEM / DT, decay_input=False, detach_reset=True, **options)
        return cell

    return step_by_step(workload, start, GAINS[variant])
