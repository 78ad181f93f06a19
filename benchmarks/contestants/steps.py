"""One training step of a torch network, and one gradient of a population: the same for all contestants."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from workloads import Workload

Step = Callable[[], object]


def spikes(workload: Workload) -> Tensor:
    """Input `[T, B, *shape]`."""
    return torch.from_numpy(workload.spikes)


def training_step(logits: Callable[[], Tensor], parameters: Iterable[nn.Parameter], workload: Workload) -> Step:
    """Forward, cross entropy, backward, Adam. A learning rate of 0 keeps the firing rates: the same work every time."""
    labels = torch.from_numpy(workload.labels)
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=0.0)

    def step() -> float:
        optimizer.zero_grad()
        loss = cross_entropy(logits(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def gradient_step(loop: Callable[[Tensor], Tensor], workload: Workload) -> Step:
    """Forward of a population alone, and backward of its spikes to the current."""
    current, upstream = torch.from_numpy(workload.current).requires_grad_(), torch.from_numpy(workload.upstream)

    def step() -> None:
        current.grad = None
        loop(current).backward(upstream)  # type: ignore[no-untyped-call]

    return step
