"""Networks with circuits in them, each with what feeds its neurons, written out by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.lab.networks.blocks import recurrent_conv_block
from fluctua.layers import DaleLayer, OverTime, Recurrent, ResidualBlock
from fluctua.network.facts import INPUT
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from shared.spikes import spikes

OUT = (INPUT,)
FLAT, MAPS = (60, 3, 20), (40, 3, 2, 24)

# Of a pathway: sources, port and whether it is recurrent.
Way = tuple[tuple[str, ...], int, bool]
Found = dict[str, dict[str, Way]]


@dataclass(frozen=True)
class Case:
    """A network, what feeds each of its populations in the order in which they run, and the shape of its input."""

    make: Callable[[], nn.Module]
    feeds: Found
    shape: tuple[int, ...] = FLAT


def linear(n: int, *, bias: bool = False) -> nn.Linear:
    return nn.Linear(n, n, bias=bias)


def dale_feeds(prefix: str, source: str, *, recurrent_excitation: bool = True) -> Found:
    exc, inh = f"{prefix}circuit.exc", f"{prefix}circuit.inh"
    feeds: Found = {}
    for name, own in (("exc", exc), ("inh", inh)):
        feeds[own] = {f"{prefix}input_{name}.weight": ((source,), 0, False)}
        if recurrent_excitation:
            feeds[own][f"{prefix}circuit.exc_{name}.weight"] = ((exc,), 0, True)
        feeds[own][f"{prefix}circuit.inh_{name}.weight"] = ((inh,), 1, True)
    return feeds


class Skipping(nn.Module):
    """A recurrent population in the body and at the end of a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lif = nn.Linear(20, 8), LIF()
        body = nn.Sequential(linear(8), Recurrent(LIF(), linear(8)), linear(8))
        self.block = ResidualBlock(body, linear(8), Recurrent(LIF(), linear(8)))

    def forward(self, x: Tensor) -> Any:
        return self.block(self.lif(self.first(x)))


def one_weight_twice() -> nn.Module:
    weight = linear(8)
    return nn.Sequential(nn.Linear(20, 8), Recurrent(LIF(), weight), linear(8), Recurrent(LIF(), weight))


CASES = {
    "recurrent": Case(
        lambda: nn.Sequential(nn.Linear(20, 8), Recurrent(LIF(), linear(8, bias=True)), nn.Linear(8, 3), LI(0.1)),
        {
            "1": {"0.weight": (OUT, 0, False), "1.weight.weight": (("1",), 0, True)},
            "3": {"2.weight": (("1",), 0, False)},
        },
    ),
    "recurrent on raw input": Case(
        lambda: nn.Sequential(Recurrent(LIF(), linear(20))),
        {"0": {"0.weight.weight": (("0",), 0, True)}},
    ),
    "recurrent alone": Case(
        lambda: Recurrent(AdaptiveLIF(), linear(20)),
        {"model": {"weight.weight": (("model",), 0, True)}},
    ),
    "around two ports": Case(
        lambda: nn.Sequential(nn.Linear(20, 8), Recurrent(ExcInhLIF(), linear(8))),
        {"1": {"0.weight": (OUT, 0, False), "1.weight.weight": (("1",), 0, True)}},
    ),
    "dropout beside the weight": Case(
        lambda: nn.Sequential(nn.Linear(20, 8), Recurrent(LIF(), nn.Sequential(nn.Dropout(0.2), linear(8)))),
        {"1": {"0.weight": (OUT, 0, False), "1.weight.1.weight": (("1",), 0, True)}},
    ),
    "Dale": Case(lambda: DaleLayer(20, 8, 4), dale_feeds("", INPUT)),
    "Dale without recurrent excitation": Case(
        lambda: nn.Sequential(DaleLayer(20, 8, 4, recurrent_excitation=False), nn.Linear(8, 3), LI(0.1)),
        dale_feeds("0.", INPUT, recurrent_excitation=False) | {"2": {"1.weight": (("0.circuit.exc",), 0, False)}},
    ),
    "a stack of both": Case(
        lambda: nn.Sequential(
            *(DaleLayer(20, 8, 4), DaleLayer(8, 8), nn.Linear(8, 8), Recurrent(LIF(), linear(8))),
            *(DaleLayer(8, 8), nn.Linear(8, 3), LI(0.1)),
        ),
        {
            **dale_feeds("0.", INPUT),
            **dale_feeds("1.", "0.circuit.exc"),
            "3": {"2.weight": (("1.circuit.exc",), 0, False), "3.weight.weight": (("3",), 0, True)},
            **dale_feeds("4.", "3"),
            "6": {"5.weight": (("4.circuit.exc",), 0, False)},
        },
    ),
    "feature maps": Case(
        lambda: nn.Sequential(
            *(recurrent_conv_block(2, 4, LIF, kernel=5, stride=2), OverTime(nn.AvgPool1d(2))),
            *(OverTime(nn.Conv1d(4, 6, 3)), OverTime(nn.BatchNorm1d(6)), Recurrent(LIF(), nn.Conv1d(6, 6, 1))),
            *(nn.Flatten(2), nn.Linear(18, 3), LI(0.1)),
        ),
        {
            "0.1": {"0.0.module.weight": (OUT, 0, False), "0.1.weight.weight": (("0.1",), 0, True)},
            "4": {"2.module.weight": (("0.1",), 0, False), "4.weight.weight": (("4",), 0, True)},
            "7": {"6.weight": (("4",), 0, False)},
        },
        MAPS,
    ),
    "a residual net": Case(
        Skipping,
        {
            "lif": {"first.weight": (OUT, 0, False)},
            "block.body.1": {
                "block.body.0.weight": (("lif",), 0, False),
                "block.body.1.weight.weight": (("block.body.1",), 0, True),
            },
            "block.cell": {
                "block.body.2.weight": (("block.body.1",), 0, False),
                "block.skip.weight": (("lif",), 0, False),
                "block.cell.weight.weight": (("block.cell",), 0, True),
            },
        },
    ),
    "one weight in two circuits": Case(
        one_weight_twice,
        {
            "1": {"0.weight": (OUT, 0, False), "1.weight.weight": (("1",), 0, True)},
            "3": {"2.weight": (("1",), 0, False), "1.weight.weight": (("3",), 0, True)},
        },
    ),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """The network in float64, with weights large enough for spikes in every population, and its input."""
    torch.manual_seed(1)
    model = CASES[name].make().double()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.mul_(8 if "input_" in key else 1 if ".circuit" in f".{key}" else 6)
    return model, 4 * spikes(*CASES[name].shape, p=0.3).double()
