"""fluctua, in the ways a user can run it.

- "plain": `nn.Sequential`, on the engine that is chosen by itself.
- "fuse": the same model through `fluctua.fuse`.
- "chain": the same network in a `FusedSequential`, on the same dense input; "events": given the input as events.
- "reference": as "plain", on the engine in plain torch.
- "compact": as "plain", in less memory: see docs/performance.md.
- "initialise": what `fluctua.initialize` takes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import Tensor, nn
from workloads import DT, TAU_MEM, TAU_SYN, THRESHOLD, Workload

import fluctua
from contestants.nets import pooled_features, widths
from contestants.steps import Step, gradient_step, spikes, training_step
from fluctua.layers import FusedSequential, OverTime, Recurrent
from fluctua.neurons import LI, LIF
from fluctua.spikes.batch import SpikeBatch

BUSY = fluctua.Target(sigma=1.75)  # about 4 % of all entries are spikes, three times as many as at xi = 1
READOUT = fluctua.Target(sigma=0.1)
ENGINES = {"reference": "reference", "compact": "cpu-bfloat16"}
MEASURED_ON = 8  # samples: the peak memory is to be that of training


def build(workload: Workload, variant: str) -> Step:
    if workload.name == "W4":
        return on(variant, gradient_step(LIF(TAU_MEM, TAU_SYN, DT, threshold=THRESHOLD), workload))
    model, x = network(workload), spikes(workload)
    if variant == "initialise":
        return lambda: fluctua.initialize(model, x, readout=READOUT, seed=0)
    bring_up(model, x[:, :MEASURED_ON])
    forward: nn.Module = FusedSequential(*model) if variant in ("chain", "events") else model
    if variant == "fuse":
        forward = fluctua.fuse(model, x[:, :MEASURED_ON])
    given = SpikeBatch.from_dense(x) if variant == "events" else x

    def logits() -> Tensor:
        out: Tensor = forward(given)
        return out.amax(0)

    return on(variant, training_step(logits, model.parameters(), workload))


def network(w: Workload) -> nn.Sequential:
    """The network of a workload, not yet initialised."""
    readout = LI(w.steps * DT, TAU_SYN, DT)
    if w.name == "W3":
        channels = [w.shape[0], *(w.width * 2**k for k in range(3))]
        first, second, third = (
            OverTime(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)) for n_in, n_out in pairwise(channels)
        )
        last = nn.Linear(pooled_features(w), w.classes, bias=False)
        behind_second, behind_third = [_lif(), OverTime(nn.MaxPool2d(2))], [_lif(), OverTime(nn.MaxPool2d(2))]
        return nn.Sequential(first, _lif(), second, *behind_second, third, *behind_third, nn.Flatten(2), last, readout)
    layers: list[nn.Module] = []
    for n_in, n_out in widths(w):
        layers.append(nn.Linear(n_in, n_out, bias=False))
        layers.append(Recurrent(_lif(), nn.Linear(n_out, n_out, bias=False)) if w.name == "W2" else _lif())
    return nn.Sequential(*layers, nn.Linear(w.width, w.classes, bias=False), readout)


def bring_up(model: nn.Sequential, x: Tensor) -> None:
    """To a known state: what a sparse network costs depends on how often it fires."""
    fluctua.initialize(model, x, BUSY, readout=READOUT, seed=0)


def on(variant: str, step: Step) -> Step:
    """The step on the engine of a variant."""
    return within(lambda: fluctua.engine(ENGINES.get(variant, "auto")), step)


def within(context: Callable[[], AbstractContextManager[None]], step: Step) -> Step:
    """The step inside a `with` block."""

    def enclosed() -> object:
        with context():
            return step()

    return enclosed


def densities(model: nn.Sequential, x: Tensor) -> list[float]:
    """Share of entries that are spikes, of every spiking population of a network."""
    found = []
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, LIF | Recurrent):
                found.append(float(x.mean()))
    return found


def _lif() -> LIF:
    return LIF(TAU_MEM, TAU_SYN, DT)
