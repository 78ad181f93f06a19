"""Rockpool: its neurons, networks as its tutorials write them, and how it runs both."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.rockpool import FRAMEWORK
from shared.frameworks.cases import (
    FAR,
    INPUT,
    Calls,
    FrameworkCases,
    NetworkCase,
    NeuronCase,
    Recurrence,
    by_hooks,
    named_classes,
    needed,
)
from shared.spikes import spikes

rockpool = needed("rockpool.nn.modules")
combinators = needed("rockpool.nn.combinators")
Constant = needed("rockpool.parameters").Constant
networks = needed("rockpool.nn.networks")
bitshift = needed("rockpool.nn.modules.torch.lif_bitshift_torch")

N = 4
EACH = torch.linspace(5e-3, 40e-3, N)  # a time constant for each neuron, s
STEPS, BATCH, INPUTS, WIDTH, CLASSES = 60, 24, 64, 64, 10
TAUS = {"tau_mem": torch.tensor(10e-3), "tau_syn": torch.tensor(5e-3)}

# -- neurons ------------------------------------------------------------------------------------------------------

Build = Callable[..., Any]


def of(name: str, shape: Any = N, **constants: Any) -> Build:
    """A class with these constants; rockpool computes in single precision only."""
    source = bitshift if name == "LIFBitshiftTorch" else rockpool

    def build(**more: Any) -> Any:
        return getattr(source, name)(shape, **constants | more)

    return build


SPIKING: dict[str, Build] = {
    "LIFTorch": of("LIFTorch"),
    "LIFTorch, constants of each neuron": of("LIFTorch", tau_mem=EACH, tau_syn=EACH.flip(0)[:, None]),
    "LIFTorch, constants not learnt": of("LIFTorch", tau_mem=Constant(0.03), tau_syn=Constant(0.01), dt=2e-3),
    "LIFTorch, decays": of("LIFTorch", leak_mode="decays", alpha=torch.tensor(0.9), beta=torch.tensor(0.7)),
    "LIFTorch, bitshifts": of(
        "LIFTorch", leak_mode="bitshifts", dash_mem=torch.tensor(4.0), dash_syn=torch.tensor(3.0)
    ),
    "LIFTorch, bias": of("LIFTorch", bias=torch.tensor(0.01), tau_mem=torch.tensor(10e-3)),
    "LIFTorch, recurrent": of("LIFTorch", (N, N), has_rec=True, w_rec=torch.zeros(N, N)),
    "LIFBitshiftTorch": of("LIFBitshiftTorch", tau_mem=EACH),
    "aLIFTorch": of("aLIFTorch", tau_syn=torch.tensor(10e-3)),
    "aLIFTorch, recurrent": of("aLIFTorch", (N, N), has_rec=True, w_rec=torch.zeros(N, N)),
    "LIFNeuronTorch": of("LIFNeuronTorch"),
    "LIFNeuronTorch, constants of each neuron": of("LIFNeuronTorch", tau_mem=EACH, bias=torch.tensor(0.002)),
}
READOUT: dict[str, Build] = {
    "ExpSynTorch": of("ExpSynTorch"),
    "ExpSynTorch, constants of each neuron": of("ExpSynTorch", tau=EACH),
}

ALL = SPIKING | READOUT


def bare(name: str) -> Callable[[], Any]:
    """With a threshold of 0.7."""
    return lambda: ALL[name](**({"threshold": torch.tensor(0.7)} if name in SPIKING else {}))


# A bias lifts the potential for 25 of the longest time constant, until e^-25 is left of the way.
NEURONS = {
    name: NeuronCase(bare(name), dtype=torch.float32, settle=1000 if "bias" in name or "each" in name else 0)
    for name in ALL
}


def run(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    FRAMEWORK.reset(module)
    output, _, recorded = module(x.transpose(0, 1), record=True)
    return output.transpose(0, 1), recorded.get("vmem", output).transpose(0, 1)


def free(module: Any, x: Tensor) -> Tensor:
    if hasattr(module, "threshold"):
        module.threshold.data.fill_(FAR)
    return run(module, x)[1]


def recurrence(kind: str) -> Recurrence:
    def made() -> tuple[Any, Any]:
        weight = 0.01 * torch.randn(N, N, generator=torch.Generator().manual_seed(0))  # large ones explode
        return of(kind, (N, N), has_rec=True, w_rec=weight)(), of(kind)()

    return Recurrence(made, lambda: 0.5 * spikes(80, 3, N, p=0.2), (("w_rec", ""),))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "rates": (lambda: rockpool.RateTorch(N), r"RateTorch of rockpool .* not spikes: use LIFTorch"),
    "recurrence onto several synapses": (
        lambda: rockpool.LIFTorch((8, 4), has_rec=True),
        r"LIFTorch of shape \(8, 4\) has recurrence onto 2 .* \(N, N\)",
    ),
}
NOTED: dict[str, tuple[Callable[[], Any], str | None]] = {
    "none": (lambda: rockpool.LIFTorch(N), None),
    "the same bias": (lambda: rockpool.LIFTorch(N, bias=torch.full((N,), 0.1)), None),
    "biases": (lambda: rockpool.LIFTorch(N, bias=torch.linspace(-0.03, 0.03, N)), ".*std 0.458"),
    "noise": (lambda: rockpool.LIFTorch(N, noise_std=0.1), ".*noise_std = 0.1"),
}


# -- networks -----------------------------------------------------------------------------------------------------


def trains() -> Tensor:
    return spikes(BATCH, STEPS, INPUTS, p=0.05, seed=1)


def frames() -> Tensor:
    return spikes(BATCH, STEPS, 2, 8, 8, p=0.05, seed=1)


def called(model: Any, x: Tensor) -> Any:
    for module in nn.Module.modules(model):
        if isinstance(module, rockpool.TorchModule):
            module.reset_state()
    return model(x)


def free_potential(module: Any, currents: Calls, outputs: Calls) -> Tensor:
    (x,), (fired,) = currents, outputs
    if isinstance(module, rockpool.ExpSynTorch):
        return fired
    module.reset_state()
    if getattr(module, "_has_rec", False):
        x[:, 1:] += fired[:, :-1] @ module.w_rec
    threshold, module.threshold.data = module.threshold.data, torch.full_like(module.threshold, FAR)
    u: Tensor = module(x, record=True)[2]["vmem"]
    module.threshold.data = threshold
    return u


def lif(width: int = WIDTH, **more: Any) -> Any:
    return rockpool.LIFTorch((width, width), **TAUS, **more)


def linear(inputs: int = WIDTH, outputs: int = WIDTH, **more: Any) -> Any:
    return rockpool.LinearTorch((inputs, outputs), **more)


def deep() -> Any:
    hidden = [module for i in range(4) for module in (linear(INPUTS if i == 0 else WIDTH), lif())]
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


NETWORKS = {
    "deep": NetworkCase(
        deep,
        trains,
        called,
        {"1_LIFTorch": {"0_LinearTorch.weight": INPUT}}
        | {f"{i + 1}_LIFTorch": {f"{i}_LinearTorch.weight": (f"{i - 1}_LIFTorch",)} for i in range(2, 8, 2)}
        | {"9_ExpSynTorch": {"8_LinearTorch.weight": ("7_LIFTorch",)}},
    ),
    "residual": NetworkCase(
        residual,
        trains,
        called,
        {
            "1_LIFTorch": {"0_LinearTorch.weight": INPUT},
            "2_TorchResidual.1_LIFTorch": {"2_TorchResidual.0_LinearTorch.weight": ("1_LIFTorch",)},
            "3_TorchResidual.1_LIFTorch": {
                "3_TorchResidual.0_LinearTorch.weight": ("1_LIFTorch", "2_TorchResidual.1_LIFTorch")
            },
            "5_ExpSynTorch": {
                "4_LinearTorch.weight": ("1_LIFTorch", "2_TorchResidual.1_LIFTorch", "3_TorchResidual.1_LIFTorch")
            },
        },
    ),
    "recurrent": NetworkCase(
        recurrent,
        trains,
        called,
        {
            "1_LIFTorch": {"0_LinearTorch.weight": INPUT, "1_LIFTorch.w_rec": ("1_LIFTorch",)},
            "3_aLIFTorch": {"2_LinearTorch.weight": ("1_LIFTorch",), "3_aLIFTorch.w_rec": ("3_aLIFTorch",)},
            "5_LIFTorch": {"4_LinearTorch.weight": ("3_aLIFTorch",)},
        },
    ),
    "in two modules": NetworkCase(
        in_two_modules,
        trains,
        called,
        {
            "2_LIFNeuronTorch": {"0_LinearTorch.weight": INPUT},
            "5_LIFNeuronTorch": {"3_LinearTorch.weight": ("2_LIFNeuronTorch",)},
            "7_ExpSynTorch": {"6_LinearTorch.weight": ("5_LIFNeuronTorch",)},
        },
    ),
    "SynNet": NetworkCase(
        synnet,
        trains,
        called,
        {
            "seq.0_neurons": {"seq.0_linear.weight": INPUT},
            "seq.1_neurons": {"seq.1_linear.weight": ("seq.0_neurons",)},
            "seq.out_neurons": {"seq.out_linear.weight": ("seq.1_neurons",)},
        },
    ),
    "WaveSense": NetworkCase(
        wavesense,
        trains,
        called,
        {
            "spk1": {"lin1.weight": INPUT},
            "wave0.spk1": {"wave0.lin1.weight": ("spk1",)},
            "wave0.spk2_res": {"wave0.lin2_res.weight": ("wave0.spk1",)},
            "wave0.spk2_skip": {"wave0.lin2_skip.weight": ("wave0.spk1",)},
            "spk2": {"hidden.weight": ("wave0.spk2_skip",)},
            "spk_out": {"readout.weight": ("spk2",)},
        },
    ),
    "convolution": NetworkCase(
        ConvNet,
        frames,
        called,
        {"spk1": {"conv1.weight": INPUT}, "spk2": {"conv2.weight": ("spk1",)}, "out": {"fc.weight": ("spk2",)}},
    ),
}

CASES = FrameworkCases(
    FRAMEWORK,
    NEURONS,
    run,
    free,
    partial(named_classes, FRAMEWORK),  # rockpool exports its neurons beside much else
    NETWORKS,
    by_hooks(free_potential),
    kept="recurrent",
    rated=("deep", 20.0, None),
    refused=REFUSED,
    recurrences={kind: recurrence(kind) for kind in ("LIFTorch", "aLIFTorch")},
    noted=NOTED,
    width=N,
)
