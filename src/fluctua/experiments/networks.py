"""The networks of the experiments, and their initial states, by name."""

from typing import Literal

from torch import Tensor, nn

import fluctua
from fluctua.diagnostics import Report
from fluctua.initialization.baselines import kaiming
from fluctua.neurons import LI, LIF
from fluctua.theory import Target

Method = Literal["kaiming", "poisson", "measured"]
METHODS: tuple[Method, ...] = ("kaiming", "poisson", "measured")
LABELS: dict[Method, str] = {
    "kaiming": "Kaiming",
    "poisson": "Poisson formula (paper)",
    "measured": "measured + balanced",
}

# A readout that starts at a tenth of a unit leaves the softmax undecided: on Randman, 3 x 128, the first epoch then
# ends at 75 % instead of 41 % validation accuracy (docs/training.md).
READOUT = Target(sigma=0.1)


def feed_forward(
    n_in: int,
    n_out: int,
    *,
    width: int,
    depth: int,
    dt: float,
    duration: float,
    tau_mem: float = 20e-3,
    tau_syn: float = 10e-3,
) -> nn.Sequential:
    """`depth` hidden populations of `width` LIF neurons and a readout as slow as the trial; times in seconds."""
    layers: list[nn.Module] = []
    for n in [n_in] + [width] * (depth - 1):
        layers += [nn.Linear(n, width, bias=False), LIF(tau_mem, tau_syn, dt)]
    layers += [nn.Linear(width, n_out, bias=False), LI(duration, tau_syn, dt)]
    return nn.Sequential(*layers)


def bring_up(model: nn.Module, x: Tensor, method: Method, *, target: Target, seed: int) -> Report:
    """Initialise a network on a batch `[T, B, N]` by one of `METHODS`; the target is for all but Kaiming."""
    if method == "kaiming":
        kaiming(model, seed=seed)
        return fluctua.inspect(model, x)
    return fluctua.initialize(model, x, target, method=method, readout=READOUT, seed=seed)
