"""Networks as norse's tutorials write them, with their wiring as it was written, for `test_wiring_norse_networks`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

norse = pytest.importorskip("norse.torch")

T, B, INPUTS, WIDTH, CLASSES = 100, 32, 64, 64, 10


def events(*shape: int, rate: float = 0.05) -> Tensor:
    """Random spikes `[T, B, *shape]`, the same ones every time."""
    return (torch.rand(T, B, *shape, generator=torch.Generator().manual_seed(1)) < rate).float()


class MemoryNet(nn.Module):
    """A recurrent cell and a readout in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = norse.LIFRecurrentCell(INPUTS, WIDTH)
        self.fc_out = nn.Linear(WIDTH, CLASSES, bias=False)
        self.out = norse.LICell()

    def forward(self, x: Tensor) -> Tensor:
        s1 = so = None
        voltages = []
        for ts in range(x.shape[0]):
            z, s1 = self.l1(x[ts], s1)
            vo, so = self.out(self.fc_out(z), so)
            voltages.append(vo)
        return torch.stack(voltages)


class LoopedByHand(nn.Module):
    """Recurrence that the user writes into the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(INPUTS, WIDTH, bias=False)
        self.back = nn.Linear(WIDTH, WIDTH, bias=False)
        self.lif = norse.LIFCell()

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        z = x.new_zeros(x.shape[1], WIDTH)
        for now in x:
            z, state = self.lif(self.fc(now) + self.back(z), state)
            outputs.append(z)
        return torch.stack(outputs)


class ConvNet(nn.Module):
    """Convolutions, batch norm and pooling in a loop over time, and a readout with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 4, WIDTH)
        self.lif0 = norse.LIFCell()
        self.lif1 = norse.LIFCell()
        self.lif2 = norse.LIFCell()
        self.out = norse.LILinearCell(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = s2 = so = None
        voltages = []
        for ts in range(x.shape[0]):
            z, s0 = self.lif0(self.norm1(self.conv1(x[ts])), s0)
            z = nn.functional.max_pool2d(z, 2, 2)
            z, s1 = self.lif1(10 * self.conv2(z), s1)
            z = nn.functional.max_pool2d(z, 2, 2)
            z, s2 = self.lif2(self.fc1(z.flatten(1)), s2)
            v, so = self.out(z, so)
            voltages.append(v)
        return torch.stack(voltages)


class ResidualBlock(nn.Module):
    """Sequence modules around skips: one over spikes, one by a weight into the current."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(WIDTH, WIDTH), norse.LIF()
        self.fc2, self.lif2 = nn.Linear(WIDTH, WIDTH), norse.LIF()
        self.skip = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.lif1(self.fc1(x))
        spikes: Tensor = self.lif2(self.fc2(z) + self.skip(x))[0]
        return x + spikes


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lif = norse.Lift(nn.Linear(INPUTS, WIDTH)), norse.LIF()
        self.block1, self.block2 = ResidualBlock(), ResidualBlock()
        self.fc, self.readout = nn.Linear(WIDTH, CLASSES), norse.LI()

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.lif(self.stem(x))
        v: Tensor = self.readout(self.fc(self.block2(self.block1(z))))[0]
        return v


def deep() -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(8):
        layers += [nn.Linear(INPUTS if i == 0 else WIDTH, WIDTH), norse.LIFCell()]
    return norse.SequentialState(*layers, nn.Linear(WIDTH, CLASSES), norse.LICell())  # type: ignore[no-any-return]


def sequences() -> nn.Module:
    """Whole sequences through lifted layers, and a recurrent module."""
    return norse.SequentialState(  # type: ignore[no-any-return]
        norse.Lift(nn.Linear(INPUTS, WIDTH)),
        norse.LIF(),
        norse.LIFRecurrent(WIDTH, WIDTH),
        norse.Lift(nn.Linear(WIDTH, WIDTH)),
        norse.LSNN(),
        norse.Lift(nn.Linear(WIDTH, CLASSES)),
        norse.LI(),
    )


def lifted() -> nn.Module:
    """A stack of cells, lifted over time as a whole."""
    cells = nn.Linear(INPUTS, WIDTH), norse.LIFRefracCell(), nn.Linear(WIDTH, WIDTH), norse.LIFBoxCell()
    return norse.Lift(norse.SequentialState(*cells))  # type: ignore[no-any-return]


def called(model: nn.Module, batch: Tensor) -> Any:
    """A model that loops itself, or takes sequences."""
    return model(batch)


def stepped(model: nn.Module, batch: Tensor) -> Any:
    """A model of cells, the state passed on from step to step."""
    state, outputs = None, []
    for x in batch:
        output, state = model(x, state)
        outputs.append(output)
    return torch.stack(outputs)


Wiring = Mapping[str, Mapping[str, tuple[str, ...]]]  # population -> its pathways -> their sources


@dataclass(frozen=True)
class Network:
    build: Callable[[], nn.Module]
    batch: Tensor
    wiring: Wiring
    run: Callable[[nn.Module, Tensor], Any] = called


IN = ("input",)

NETWORKS: Mapping[str, Network] = {
    "deep": Network(
        deep,
        events(INPUTS),
        {"1": {"0.weight": IN}} | {f"{i + 1}": {f"{i}.weight": (f"{i - 1}",)} for i in range(2, 17, 2)},
        stepped,
    ),
    "residual": Network(
        ResidualNet,
        events(INPUTS),
        {
            "lif": {"stem.lifted_module.weight": IN},
            "block1.lif1": {"block1.fc1.weight": ("lif",)},
            "block1.lif2": {"block1.fc2.weight": ("block1.lif1",), "block1.skip.weight": ("lif",)},
            "block2.lif1": {"block2.fc1.weight": ("block1.lif2", "lif")},
            "block2.lif2": {"block2.fc2.weight": ("block2.lif1",), "block2.skip.weight": ("block1.lif2", "lif")},
            "readout": {"fc.weight": ("block1.lif2", "block2.lif2", "lif")},
        },
    ),
    "convolution": Network(
        ConvNet,
        events(2, 8, 8),
        {
            "lif0": {"conv1.weight": IN},
            "lif1": {"conv2.weight": ("lif0",)},
            "lif2": {"fc1.weight": ("lif1",)},
            "out": {"out.input_weights": ("lif2",)},
        },
    ),
    "recurrent": Network(
        MemoryNet,
        events(INPUTS),
        {"l1": {"l1.input_weights": IN, "l1.recurrent_weights": ("l1",)}, "out": {"fc_out.weight": ("l1",)}},
    ),
    "by hand": Network(LoopedByHand, events(INPUTS), {"lif": {"fc.weight": IN, "back.weight": ("lif",)}}),
    "sequences": Network(
        sequences,
        events(INPUTS),
        {
            "1": {"0.lifted_module.weight": IN},
            "2": {"2.input_weights": ("1",), "2.recurrent_weights": ("2",)},
            "4": {"3.lifted_module.weight": ("2",)},
            "6": {"5.lifted_module.weight": ("4",)},
        },
    ),
    "lifted": Network(
        lifted,
        events(INPUTS),
        {
            "lifted_module.1": {"lifted_module.0.weight": IN},
            "lifted_module.3": {"lifted_module.2.weight": ("lifted_module.1",)},
        },
    ),
}
