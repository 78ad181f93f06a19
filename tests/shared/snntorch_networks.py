"""Networks as snnTorch's tutorials write them, with the pathways that they have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

snn = pytest.importorskip("snntorch")

STEPS, BATCH, INPUTS, WIDTH, CLASSES = 80, 24, 60, 48, 10
SIDE = 10  # of images

Wiring = Mapping[str, Mapping[str, tuple[str, ...]]]  # population -> weight -> sources


@dataclass(frozen=True)
class Case:
    """A network, its input, its wiring, and how it is run where it does not run by itself."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    wiring: Wiring
    forward: Callable[[nn.Module, Any], Any] | None = None
    sigma: float = 0.05  # how far sigma_U may be from its target

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return self.make()


def spikes(*shape: int) -> Tensor:
    return (torch.rand(STEPS, BATCH, *shape, generator=torch.Generator().manual_seed(1)) < 0.1).float()


def trains() -> Tensor:
    return spikes(INPUTS)


def recordings() -> Tensor:
    return spikes(2, SIDE, SIDE)


def images() -> Tensor:
    return torch.rand(BATCH, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


class Deep(nn.Module):
    """Eight layers, explicit state, the loop over time inside."""

    def __init__(self) -> None:
        super().__init__()
        widths = [INPUTS, *[WIDTH] * 7, CLASSES]
        self.fcs = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.lifs = nn.ModuleList(snn.Synaptic(alpha=0.8, beta=0.9) for _ in widths[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states: list[Any] = [lif.reset_mem() for lif in self.lifs]  # type: ignore[operator]
        spk_rec, mem_rec = [], []
        for spk in x:
            for i, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                spk, syn, mem = lif(fc(spk), *states[i])
                states[i] = (syn, mem)
            spk_rec.append(spk)
            mem_rec.append(mem)
        return torch.stack(spk_rec), torch.stack(mem_rec)


def deep_hidden() -> nn.Module:
    """Eight nested layers that keep their state; one call is one step, and the last returns its membrane too."""
    beta = torch.linspace(0.8, 0.95, WIDTH)
    blocks = [
        nn.Sequential(nn.Linear(INPUTS if i == 0 else WIDTH, WIDTH), snn.Leaky(beta=beta, init_hidden=True))
        for i in range(7)
    ]
    return nn.Sequential(
        nn.Flatten(), *blocks, nn.Linear(WIDTH, CLASSES), snn.Leaky(0.9, init_hidden=True, output=True)
    )


class Residual(nn.Module):
    """A weighted shortcut of currents and a plain one of spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.skip, self.out = nn.Linear(INPUTS, WIDTH, bias=False), nn.Linear(WIDTH, CLASSES)
        self.lif1, self.lif2 = snn.Leaky(beta=0.9), snn.Leaky(beta=0.8)
        self.lif3, self.lif4 = snn.Alpha(alpha=0.9, beta=0.8), snn.Leaky(beta=0.95, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, mem4 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif4.reset_mem()
        state3 = self.lif3.reset_mem()
        mem4_rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1) + self.skip(x_t), mem2)
            spk3, *state3 = self.lif3(self.fc3(spk1 + spk2), *state3)
            _, mem4 = self.lif4(self.out(spk3), mem4)
            mem4_rec.append(mem4)
        return torch.stack(mem4_rec)


def convolutional() -> nn.Module:
    """One call is one step of an event recording, as in the tutorial on neuromorphic data; batch norm and pooling."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Conv2d(8, 16, 3),
        nn.AvgPool2d(2),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, CLASSES),
        snn.Leaky(beta=0.9, init_hidden=True, output=True),
    )


class Static(nn.Module):
    """An image that is shown at every step, `num_steps` times, as in the tutorial on convolutional networks."""

    def __init__(self, num_steps: int = STEPS) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.conv, self.pool, self.lif1 = nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), snn.Leaky(beta=0.5)
        self.fc, self.lif2 = nn.Linear(6 * 4 * 4, CLASSES), snn.Leaky(beta=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(self.pool(self.conv(x)), mem1)
            spk2, mem2 = self.lif2(self.fc(spk1.flatten(1)), mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(mem2_rec)


def shown(net: nn.Module, data: Tensor) -> Tensor:
    """`forward_pass` of the tutorials: a net that keeps its state sees the same image at every step."""
    for layer in net.modules():
        if isinstance(layer, snn.SpikingNeuron):
            layer.reset_mem()
    return torch.stack([net(data)[0] for _ in range(STEPS)])


def static_hidden() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.MaxPool2d(2),
        snn.Leaky(beta=0.5, init_hidden=True),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, CLASSES),
        snn.Leaky(beta=0.5, init_hidden=True, output=True),
    )


class Recurrent(nn.Module):
    """Layers of neurons that own their recurrent weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.lif1 = snn.RLeaky(beta=0.9, linear_features=WIDTH)
        self.lif2 = snn.RSynaptic(alpha=0.7, beta=0.9, linear_features=WIDTH)
        self.lif3 = snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        spk1, mem1 = self.lif1.init_rleaky()
        spk2, syn2, mem2 = self.lif2.init_rsynaptic()
        mem3 = self.lif3.init_leaky()
        spk3_rec = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), spk1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), spk2, syn2, mem2)
            spk3, mem3 = self.lif3(self.fc3(spk2), mem3)
            spk3_rec.append(spk3)
        return torch.stack(spk3_rec)


class ByHand(nn.Module):
    """Recurrence written in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.rec1 = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc2 = nn.Linear(WIDTH, CLASSES)
        self.lif1, self.lif2 = snn.Leaky(beta=0.9), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk1, spk2_rec = torch.zeros(x.shape[1], WIDTH), []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t) + self.rec1(spk1), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk2_rec.append(spk2)
        return torch.stack(spk2_rec)


def others() -> nn.Module:
    """Euler steps of an RC circuit, neurons that hear themselves alone, and a perfect integrator."""
    return nn.Sequential(
        nn.Linear(INPUTS, WIDTH),
        snn.Lapicque(R=5.1, C=5e-3, time_step=1e-3, init_hidden=True),
        nn.Linear(WIDTH, WIDTH),
        snn.RSynaptic(alpha=0.7, beta=0.9, all_to_all=False, V=0.3, init_hidden=True),
        nn.Linear(WIDTH, CLASSES),
        snn.Leaky(beta=1.0, learn_beta=True, init_hidden=True, output=True),
    )


class Parallel(nn.Module):
    """Filters over whole sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lif1 = snn.LinearLeaky(beta=0.9, in_features=INPUTS, out_features=WIDTH)
        self.fc2, self.lif2 = nn.Linear(WIDTH, WIDTH), snn.StateLeaky(beta=0.8, channels=WIDTH)
        self.lif3 = snn.LinearLeaky(beta=0.9, in_features=WIDTH, out_features=CLASSES, output=False)

    def forward(self, x: Tensor) -> Tensor:
        spk1, _ = self.lif1(x)
        spk2, _ = self.lif2(self.fc2(spk1))
        mem3: Tensor = self.lif3(spk2)
        return mem3


INPUT = ("input",)


def chain(*links: tuple[str, str]) -> Wiring:
    """Weights and the populations that they feed, one after the other."""
    sources = ["input", *(population for _, population in links)]
    return {population: {weight: (source,)} for (weight, population), source in zip(links, sources, strict=False)}


CASES: dict[str, Case] = {
    "deep": Case(Deep, trains, chain(*[(f"fcs.{i}.weight", f"lifs.{i}") for i in range(8)])),
    "deep, hidden state": Case(
        deep_hidden, trains, chain(*[(f"{i}.0.weight", f"{i}.1") for i in range(1, 8)], ("8.weight", "9"))
    ),
    "residual": Case(
        Residual,
        trains,
        {
            "lif1": {"fc1.weight": INPUT},
            "lif2": {"fc2.weight": ("lif1",), "skip.weight": INPUT},
            "lif3": {"fc3.weight": ("lif1", "lif2")},
            "lif4": {"out.weight": ("lif3",)},
        },
    ),
    "others": Case(others, trains, chain(("0.weight", "1"), ("2.weight", "3"), ("4.weight", "5"))),
    "convolutional": Case(convolutional, recordings, chain(("0.weight", "3"), ("4.weight", "6"), ("9.weight", "10"))),
    "image": Case(Static, images, chain(("conv.weight", "lif1"), ("fc.weight", "lif2"))),
    "image, hidden state": Case(static_hidden, images, chain(("0.weight", "2"), ("4.weight", "5")), forward=shown),
    "recurrent": Case(
        Recurrent,
        trains,
        {
            "lif1": {"fc1.weight": INPUT, "lif1.recurrent.weight": ("lif1",)},
            "lif2": {"fc2.weight": ("lif1",), "lif2.recurrent.weight": ("lif2",)},
            "lif3": {"fc3.weight": ("lif2",)},
        },
        sigma=0.1,
    ),
    "recurrent by hand": Case(
        ByHand,
        trains,
        {"lif1": {"fc1.weight": INPUT, "rec1.weight": ("lif1",)}, "lif2": {"fc2.weight": ("lif1",)}},
        sigma=0.1,
    ),
    "parallel": Case(
        Parallel, trains, chain(("lif1.linear.weight", "lif1"), ("fc2.weight", "lif2"), ("lif3.linear.weight", "lif3"))
    ),
}
