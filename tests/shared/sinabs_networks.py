"""Networks as the tutorials of sinabs write them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.simulated_networks import Case, Wiring, chain, spikes

sinabs: Any = pytest.importorskip("sinabs")
sl: Any = pytest.importorskip("sinabs.layers")
from_torch: Any = pytest.importorskip("sinabs.from_torch")

SAMPLES, STEPS = 16, 60
INPUT = ("input",)


def made(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same weights at every call."""

    def model() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    return model


def run(model: nn.Module, x: Tensor) -> Any:
    """All steps at once. `sinabs.reset_states` would pass over layers that hold others, such as LIFRecurrent."""
    for module in model.modules():
        if isinstance(module, sl.StatefulLayer):
            module.reset_states()
    return model(x)


def deep() -> nn.Module:
    layers = (m for _ in range(8) for m in (nn.Linear(48, 48, bias=False), sl.LIF(tau_mem=10.0, tau_syn=5.0)))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Spikes added to currents and to spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = sl.Merge()
        self.fc1, self.lif1 = nn.Linear(40, 64), sl.LIF(tau_mem=10.0)
        self.fc2, self.lif2 = nn.Linear(64, 64), sl.LIF(tau_mem=10.0, norm_input=False)
        self.skip = nn.Linear(40, 64, bias=False)
        self.fc3, self.lif3 = nn.Linear(64, 10), sl.LIF(tau_mem=20.0, spike_threshold=torch.tensor(0.5))

    def forward(self, x: Tensor) -> Any:
        first = self.lif1(self.fc1(x))
        second = self.lif2(self.merge(self.fc2(first), self.skip(x)))
        return self.lif3(self.fc3(self.merge(first, second)))


def convolutions(**known: int) -> nn.Module:
    """Time and samples in one axis."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        sl.IAFSqueeze(**known),
        sl.SumPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        sl.LIFSqueeze(tau_mem=10.0, **known),
        nn.AvgPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(8 * 9, 10, bias=False),
        sl.ExpLeakSqueeze(tau_mem=10.0, **known),
    )


def repeated() -> nn.Module:
    """The same with an axis for time."""
    return nn.Sequential(
        sl.Repeat(nn.Conv2d(2, 8, 3, padding=1)),
        sl.IAF(),
        sl.Repeat(sl.SumPool2d(2)),
        sl.Repeat(nn.Conv2d(8, 8, 3, padding=1)),
        sl.LIF(tau_mem=10.0),
        sl.FlattenTime(),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
        sl.UnflattenTime(batch_size=8),
        sl.LIF(tau_mem=torch.linspace(5, 20, 10)),
    )


def recurrent() -> nn.Module:
    return nn.Sequential(
        nn.Linear(40, 64),
        sl.LIFRecurrent(tau_mem=10.0, rec_connect=nn.Linear(64, 64)),
        nn.Linear(64, 10),
        sl.ExpLeak(tau_mem=10.0),
    )


def adaptive() -> nn.Module:
    options = {"tau_mem": 10.0, "tau_adapt": 20.0}
    return nn.Sequential(
        nn.Linear(40, 64),
        sl.ALIF(tau_syn=5.0, **options),
        nn.Linear(64, 64),
        sl.ALIFRecurrent(rec_connect=nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False)), **options),
    )


def converted() -> nn.Module:
    """A network of rates, as it is brought to a chip."""
    rates = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 36, 10, bias=False),
        nn.ReLU(),
    )
    network: nn.Module = from_torch.from_model(rates, batch_size=8, min_v_mem=-1.0).spiking_model
    return network


def flat() -> Tensor:
    return spikes(SAMPLES, STEPS, 40)


def frames() -> Tensor:
    return spikes(8 * 30, 2, 12, 12)


RESIDUAL: Wiring = {
    "lif1": {"fc1.weight": INPUT},
    "lif2": {"fc2.weight": ("lif1",), "skip.weight": INPUT},
    "lif3": {"fc3.weight": ("lif1", "lif2")},
}
RECURRENT: Wiring = {"1": {"0.weight": INPUT, "1.rec_connect.weight": ("1",)}, "3": {"2.weight": ("1",)}}
ADAPTIVE: Wiring = {"1": {"0.weight": INPUT}, "3": {"2.weight": ("1",), "3.rec_connect.1.weight": ("3",)}}
CONVOLUTIONS = chain("0", "2", "4", "5", "9", "10")
REPEATED = chain("0.module", "1", "3.module", "4", "7", "9")

CASES = {
    "deep": Case(made(deep), lambda: spikes(SAMPLES, STEPS, 48), run, chain(*(str(k) for k in range(16)))),
    "residual": Case(made(Residual), flat, run, RESIDUAL),
    "convolutions, samples known": Case(made(lambda: convolutions(batch_size=8)), frames, run, CONVOLUTIONS),
    "convolutions, steps known": Case(made(lambda: convolutions(num_timesteps=30)), frames, run, CONVOLUTIONS),
    "convolutions, repeated": Case(made(repeated), lambda: frames().unflatten(0, (8, 30)), run, REPEATED),  # type: ignore[no-untyped-call]
    "recurrent": Case(made(recurrent), flat, run, RECURRENT, slack=0.1),
    "adaptive": Case(made(adaptive), flat, run, ADAPTIVE, slack=0.1),
    "converted": Case(made(converted), frames, run, chain("0", "1", "4", "5")),
}
