"""Networks as rockpool's tutorials write them, with their wiring as it was written, for the tests beside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

rockpool = pytest.importorskip("rockpool.nn.modules")
combinators = pytest.importorskip("rockpool.nn.combinators")
Constant = pytest.importorskip("rockpool.parameters").Constant
networks = pytest.importorskip("rockpool.nn.networks")

T, B, INPUTS, WIDTH, CLASSES = 100, 24, 64, 64, 10
TAUS = {"tau_mem": torch.tensor(10e-3), "tau_syn": torch.tensor(5e-3)}


def events(*shape: int, rate: float = 0.05) -> Tensor:
    """Random spikes `[B, T, *shape]`, the same ones every time."""
    return (torch.rand(B, T, *shape, generator=torch.Generator().manual_seed(1)) < rate).float()


def lif(width: int = WIDTH, **more: Any) -> Any:
    return rockpool.LIFTorch((width, width), **TAUS, **more)


def linear(inputs: int = WIDTH, outputs: int = WIDTH, **more: Any) -> Any:
    return rockpool.LinearTorch((inputs, outputs), **more)


def deep() -> Any:
    hidden = [module for i in range(8) for module in (linear(INPUTS if i == 0 else WIDTH), lif())]
    return combinators.Sequential(*hidden, linear(WIDTH, CLASSES), rockpool.ExpSynTorch(CLASSES))


def residual() -> Any:
    blocks = [combinators.Residual(linear(has_bias=True), lif()) for _ in range(2)]
    readout = linear(WIDTH, CLASSES), rockpool.ExpSynTorch(CLASSES)
    return combinators.Sequential(linear(INPUTS), lif(), *blocks, *readout)


def recurrent() -> Any:
    hidden = lif(has_rec=True), linear(), rockpool.aLIFTorch((WIDTH, WIDTH), has_rec=True, **TAUS)
    return combinators.Sequential(
        linear(INPUTS), *hidden, linear(WIDTH, CLASSES), lif(CLASSES, bias=torch.tensor(0.01))
    )


def in_two_modules() -> Any:
    """Synapse and membrane apart, and a readout of the same class as the synapse."""
    neuron = rockpool.ExpSynTorch(WIDTH), rockpool.LIFNeuronTorch(WIDTH)
    again = rockpool.ExpSynTorch(WIDTH), rockpool.LIFNeuronTorch(WIDTH)
    readout = linear(WIDTH, CLASSES), rockpool.ExpSynTorch(CLASSES)
    return combinators.Sequential(linear(INPUTS), *neuron, linear(), *again, *readout)


def synnet() -> Any:
    """Rockpool's own architecture: synaptic time constants of many lengths in a layer."""
    return networks.SynNet(
        n_classes=CLASSES, n_channels=INPUTS, size_hidden_layers=[60, 40], time_constants_per_layer=[4, 2]
    )


def wavesense() -> Any:
    """Another of rockpool's own: two synapses for each neuron of a block, skips, and constants that are not learnt."""
    short = Constant(5e-3)
    return networks.WaveSenseNet(
        dilations=[2], n_classes=CLASSES, n_channels_in=INPUTS, base_tau_syn=short, tau_mem=short, tau_lp=short
    )


class ConvNet(nn.Module):
    """A module of torch around neurons of rockpool, which take `[B, T, N]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.spk1, self.spk2 = lif(12 * 8 * 8), lif(16 * 4 * 4)
        self.fc, self.out = nn.Linear(16 * 2 * 2, CLASSES), rockpool.ExpSynTorch(CLASSES)

    def forward(self, x: Tensor) -> Any:
        samples = x.shape[:2]
        z, _, _ = self.spk1(self.norm1(self.conv1(x.flatten(0, 1))).unflatten(0, samples).flatten(2))
        z = nn.functional.max_pool2d(z.flatten(0, 1).unflatten(1, (12, 8, 8)), 2)
        z, _, _ = self.spk2(self.conv2(z).unflatten(0, samples).flatten(2))
        z = nn.functional.max_pool2d(z.flatten(0, 1).unflatten(1, (16, 4, 4)), 2)
        return self.out(self.fc(z.flatten(1)).unflatten(0, samples))


Wiring = Mapping[str, Mapping[str, tuple[str, ...]]]  # population -> its pathways -> their sources


@dataclass(frozen=True)
class Network:
    build: Callable[[], Any]
    batch: Tensor
    wiring: Wiring


IN = ("input",)

NETWORKS: Mapping[str, Network] = {
    "deep": Network(
        deep,
        events(INPUTS),
        {"1_LIFTorch": {"0_LinearTorch.weight": IN}}
        | {f"{i + 1}_LIFTorch": {f"{i}_LinearTorch.weight": (f"{i - 1}_LIFTorch",)} for i in range(2, 16, 2)}
        | {"17_ExpSynTorch": {"16_LinearTorch.weight": ("15_LIFTorch",)}},
    ),
    "residual": Network(
        residual,
        events(INPUTS),
        {
            "1_LIFTorch": {"0_LinearTorch.weight": IN},
            "2_TorchResidual.1_LIFTorch": {"2_TorchResidual.0_LinearTorch.weight": ("1_LIFTorch",)},
            "3_TorchResidual.1_LIFTorch": {
                "3_TorchResidual.0_LinearTorch.weight": ("1_LIFTorch", "2_TorchResidual.1_LIFTorch")
            },
            "5_ExpSynTorch": {
                "4_LinearTorch.weight": ("1_LIFTorch", "2_TorchResidual.1_LIFTorch", "3_TorchResidual.1_LIFTorch")
            },
        },
    ),
    "recurrent": Network(
        recurrent,
        events(INPUTS),
        {
            "1_LIFTorch": {"0_LinearTorch.weight": IN, "1_LIFTorch.w_rec": ("1_LIFTorch",)},
            "3_aLIFTorch": {"2_LinearTorch.weight": ("1_LIFTorch",), "3_aLIFTorch.w_rec": ("3_aLIFTorch",)},
            "5_LIFTorch": {"4_LinearTorch.weight": ("3_aLIFTorch",)},
        },
    ),
    "in two modules": Network(
        in_two_modules,
        events(INPUTS),
        {
            "2_LIFNeuronTorch": {"0_LinearTorch.weight": IN},
            "5_LIFNeuronTorch": {"3_LinearTorch.weight": ("2_LIFNeuronTorch",)},
            "7_ExpSynTorch": {"6_LinearTorch.weight": ("5_LIFNeuronTorch",)},
        },
    ),
    "SynNet": Network(
        synnet,
        events(INPUTS),
        {
            "seq.0_neurons": {"seq.0_linear.weight": IN},
            "seq.1_neurons": {"seq.1_linear.weight": ("seq.0_neurons",)},
            "seq.out_neurons": {"seq.out_linear.weight": ("seq.1_neurons",)},
        },
    ),
    "WaveSense": Network(
        wavesense,
        events(INPUTS),
        {
            "spk1": {"lin1.weight": IN},
            "wave0.spk1": {"wave0.lin1.weight": ("spk1",)},
            "wave0.spk2_res": {"wave0.lin2_res.weight": ("wave0.spk1",)},
            "wave0.spk2_skip": {"wave0.lin2_skip.weight": ("wave0.spk1",)},
            "spk2": {"hidden.weight": ("wave0.spk2_skip",)},
            "spk_out": {"readout.weight": ("spk2",)},
        },
    ),
    "convolution": Network(
        ConvNet,
        events(2, 8, 8),
        {"spk1": {"conv1.weight": IN}, "spk2": {"conv2.weight": ("spk1",)}, "out": {"fc.weight": ("spk2",)}},
    ),
}
