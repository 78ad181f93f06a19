"""What the work would cost without neurons.

- "batched": the network with every LIF replaced by the identity, all time steps in one matrix product a layer.
- "stepwise": the same, one time step after the other. Of convolutions this is the faster form: it stays in cache.
- "passes": two elementwise passes over memory that is there already, the least that a forward and a backward move.
- "relu": a ReLU through autograd.
"""

import torch
from torch import Tensor
from workloads import Workload

from contestants.nets import net
from contestants.steps import Step, gradient_step, spikes, training_step


def build(workload: Workload, variant: str) -> Step:
    if variant == "passes":
        return _passes(workload)
    if variant == "relu":
        return gradient_step(torch.relu, workload)
    network, x = net(workload), spikes(workload)

    def batched() -> Tensor:
        return network.linear(x.flatten(0, 1)).view(*x.shape[:2], -1).amax(0)

    def stepwise() -> Tensor:
        return torch.stack([network.linear(frame) for frame in x.unbind(0)]).amax(0)

    return training_step(batched if variant == "batched" else stepwise, network.parameters(), workload)


def _passes(workload: Workload) -> Step:
    source = torch.from_numpy(workload.upstream)
    first, second = torch.empty_like(source), torch.empty_like(source)

    def step() -> None:
        torch.mul(source, 0.5, out=first)
        torch.mul(source, 0.5, out=second)

    return step
