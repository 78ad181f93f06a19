"""Small networks of every kind of wiring, each with what feeds its neurons, written out by hand."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from fluctua.layers import OverTime
from fluctua.neurons import LI, LIF

Feeds = tuple[str, dict[str, tuple[str, ...]], tuple[str, ...]]
INPUT = ("input",)
FLAT, IMAGE = (40, 3, 20), (24, 3, 2, 8, 8)


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input, and its populations in the order in which they run.

    `feeds` has for each the name, the sources of every weight that feeds it, and those that reach it without one.
    """

    make: Callable[[], nn.Module]
    feeds: list[Feeds]
    shape: tuple[int, ...] = FLAT

    def model(self) -> nn.Module:
        """In float64, with weights large enough for spikes in every population."""
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # weight_norm by hook is deprecated
            model = self.make().double()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(5)
        return model

    def batch(self) -> Tensor:
        """Random spikes."""
        return (torch.rand(self.shape, generator=torch.Generator().manual_seed(1)) < 0.3).double()


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 12), LIF(), nn.Linear(12, 12), LIF(), nn.Linear(12, 4), LI(0.1))


def in_a_row(weight: str = "weight") -> list[Feeds]:
    """Of three layers, the first two of which have weights of this name."""
    return [("1", {f"0.{weight}": INPUT}, ()), ("3", {f"2.{weight}": ("1",)}, ()), ("5", {"4.weight": ("3",)}, ())]


SEQUENTIAL = in_a_row()


class Layers(nn.Module):
    """Three neurons and what there is between them; subclasses wire them up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(20, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.skip = nn.Linear(20, 12, bias=False)
        self.lif_a, self.lif_b, self.lif_c = LIF(), LIF(), LIF()


class Residual(Layers):
    """Skips with weights, with none, and around two layers."""

    def forward(self, x: Tensor) -> Any:
        a = self.lif_a(self.a(x))
        b = self.lif_b(self.b(a) + a)
        return self.lif_c(self.c(b) + self.skip(x) - 0.5 * a)


class Joined(Layers):
    """One weight that hears two populations."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Any:
        a = self.lif_a(self.a(x))
        b = self.lif_b(self.skip(x))
        return self.lif_c(self.c(torch.cat([a, b], -1)) + self.b(a))


class ResidualStream(Layers):
    """Every layer adds its share in place, after the current has been read."""

    def forward(self, x: Tensor) -> Any:
        y = self.skip(x)
        y += self.b(self.lif_a(y))
        y += self.c(self.lif_b(y))
        return self.lif_c(y)


class SpikesInPlace(Layers):
    """Spikes that are scaled and added to in place."""

    def forward(self, x: Tensor) -> Any:
        a = self.lif_a(self.a(x))
        a *= 2
        b = self.lif_b(self.b(a))
        b += a
        return self.lif_c(self.c(b))


class SharedModule(Layers):
    """One layer that feeds two populations."""

    def forward(self, x: Tensor) -> Any:
        a = self.lif_a(self.a(x))
        b = self.lif_b(self.b(a))
        return self.lif_c(self.b(b))


class TwoShapes(Layers):
    """One layer called twice on its way to one population, with inputs of different shapes."""

    def forward(self, x: Tensor) -> Any:
        first = self.a(x[:, :2])
        y = self.a(x) + self.skip(x)
        a = self.lif_a(torch.cat([y[:, :2] + first, y[:, 2:]], 1))
        return self.lif_c(self.c(self.lif_b(self.b(a))))


class Unreached(Layers):
    """A neuron and two weights that the forward pass leaves out."""

    def forward(self, x: Tensor) -> Any:
        return self.lif_c(self.b(self.lif_a(self.a(x))))


class TwoOutputs(nn.Module):
    """A layer that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x @ self.weight
        return y.relu(), (-y).relu()


class PushPull(Layers):
    """Both outputs of a layer lead to one population, one of them to the next as well."""

    def __init__(self) -> None:
        super().__init__()
        self.b = TwoOutputs()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Any:
        on, off = self.b(self.lif_a(self.a(x)))
        b = self.lif_b(on - off)
        return self.lif_c(self.c(b))


class Offset(nn.Module):
    """Adds a number to each neuron: a bias and nothing else."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


class Gain(Offset):
    """Multiplies the current of each neuron."""

    def forward(self, x: Tensor) -> Tensor:
        return self.offset * x


class Scaled(nn.Linear):
    """A layer with a gain of its own, in two dimensions."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.gain = nn.Parameter(torch.ones(1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class BareGain(Layers):
    """Gains and offsets in two dimensions that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(1, 12)), nn.Parameter(torch.zeros(3, 12))

    def forward(self, x: Tensor) -> Any:
        y = self.b(self.lif_a(self.gain * self.a(x)))
        y += self.offset
        return self.lif_b(y)


class DropConnect(nn.Linear):
    """Draws random numbers on every call."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, nn.functional.dropout(self.weight, 0.3), self.bias)


def stochastic() -> nn.Module:
    return nn.Sequential(
        *(DropConnect(20, 12), LIF(), nn.Dropout(0.3), DropConnect(12, 12), nn.Dropout(0.2), LIF()),
        *(DropConnect(12, 12), nn.Dropout(0.2), LIF()),
    )


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        *(OverTime(nn.Conv2d(2, 4, 3, padding=1, bias=False)), OverTime(nn.BatchNorm2d(4)), LIF()),
        *(OverTime(nn.AvgPool2d(2)), nn.Dropout(0.3)),
        *(OverTime(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))), LIF()),
        *(nn.Flatten(2), nn.Linear(24, 5), LI(0.1)),
    )


CONVOLUTIONAL: list[Feeds] = [
    ("2", {"0.module.weight": INPUT}, ()),
    ("6", {"5.module.0.weight": ("2",)}, ()),
    ("9", {"8.weight": ("6",)}, ()),
]


def separable() -> nn.Module:
    depthwise = OverTime(nn.Conv2d(4, 4, 3, padding=1, groups=4))
    return nn.Sequential(
        *(OverTime(nn.Conv2d(2, 4, 3)), LIF(), depthwise, OverTime(nn.Conv2d(4, 6, 1)), LIF()),
        *(nn.Flatten(2), nn.Linear(216, 8), nn.Linear(8, 8), nn.Linear(8, 5), LIF()),
    )


def shared_weight() -> nn.Module:
    one, other = nn.Linear(12, 12), nn.Linear(12, 12)
    other.weight = one.weight
    return nn.Sequential(nn.Linear(20, 12), LIF(), one, LIF(), other, LIF())


def frozen() -> nn.Module:
    model = sequential()
    model[2].requires_grad_(False)
    return model


def parametrised(by: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = sequential()
        by(model[0])
        by(model[2])
        return model

    return make


def no_compiler(*_: Any) -> Any:
    raise AssertionError("the compiler was called")


def compiled(model: nn.Module) -> nn.Module:
    wrapped: Any = torch.compile(model, backend=no_compiler)
    assert isinstance(wrapped, nn.Module)
    return wrapped


def compiled_in_place() -> nn.Module:
    model = sequential()
    model.compile(backend=no_compiler)
    return model


def with_hooks_that_change_outputs() -> nn.Module:
    model = sequential()
    for layer in list(model)[:4]:
        layer.register_forward_hook(lambda module, args, output: 0.8 * output)
    model[3].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    model[2].register_full_backward_hook(lambda module, before, behind: None)
    return model


CASES = {
    "sequential": Case(sequential, SEQUENTIAL),
    "residual": Case(
        Residual,
        [
            ("lif_a", {"a.weight": INPUT}, ()),
            ("lif_b", {"b.weight": ("lif_a",)}, ("lif_a",)),
            ("lif_c", {"c.weight": ("lif_b",), "skip.weight": INPUT}, ("lif_a",)),
        ],
    ),
    "joined": Case(
        Joined,
        [
            ("lif_a", {"a.weight": INPUT}, ()),
            ("lif_b", {"skip.weight": INPUT}, ()),
            ("lif_c", {"c.weight": ("lif_a", "lif_b"), "b.weight": ("lif_a",)}, ()),
        ],
    ),
    "residual stream in place": Case(
        ResidualStream,
        [
            ("lif_a", {"skip.weight": INPUT}, ()),
            ("lif_b", {"skip.weight": INPUT, "b.weight": ("lif_a",)}, ()),
            ("lif_c", {"skip.weight": INPUT, "b.weight": ("lif_a",), "c.weight": ("lif_b",)}, ()),
        ],
    ),
    "spikes in place": Case(
        SpikesInPlace,
        [
            ("lif_a", {"a.weight": INPUT}, ()),
            ("lif_b", {"b.weight": ("lif_a",)}, ()),
            ("lif_c", {"c.weight": ("lif_a", "lif_b")}, ()),
        ],
    ),
    "shared module": Case(
        SharedModule,
        [
            ("lif_a", {"a.weight": INPUT}, ()),
            ("lif_b", {"b.weight": ("lif_a",)}, ()),
            ("lif_c", {"b.weight": ("lif_b",)}, ()),
        ],
    ),
    "one layer, two shapes": Case(
        TwoShapes,
        [
            ("lif_a", {"a.weight": INPUT, "skip.weight": INPUT}, ()),
            ("lif_b", {"b.weight": ("lif_a",)}, ()),
            ("lif_c", {"c.weight": ("lif_b",)}, ()),
        ],
    ),
    "two outputs": Case(
        PushPull,
        [
            ("lif_a", {"a.weight": INPUT}, ()),
            ("lif_b", {"b.weight": ("lif_a",)}, ()),
            ("lif_c", {"c.weight": ("lif_b",)}, ()),
        ],
    ),
    "a neuron never reached": Case(
        Unreached, [("lif_a", {"a.weight": INPUT}, ()), ("lif_c", {"b.weight": ("lif_a",)}, ())]
    ),
    "a neuron before all weights": Case(
        lambda: nn.Sequential(LIF(threshold=0.1), nn.Linear(20, 12), LIF()),
        [("0", {}, ()), ("2", {"1.weight": ("0",)}, ())],
    ),
    "convolutional": Case(convolutional, CONVOLUTIONAL, IMAGE),
    "convolutional, eval": Case(lambda: convolutional().eval(), CONVOLUTIONAL, IMAGE),
    "chains of layers": Case(
        separable,
        [
            ("1", {"0.module.weight": INPUT}, ()),
            ("4", {"3.module.weight": ("1",)}, ()),
            ("9", {"8.weight": ("4",)}, ()),
        ],
        IMAGE,
    ),
    "biases and gains": Case(
        lambda: nn.Sequential(
            *(nn.Linear(20, 12), Offset(12), Gain(1, 12), LIF(), Scaled(12, 12), Offset(3, 12), LIF()),
        ),
        [("3", {"0.weight": INPUT}, ()), ("6", {"4.weight": ("3",)}, ())],
    ),
    "gains outside of layers": Case(
        BareGain, [("lif_a", {"a.weight": INPUT}, ()), ("lif_b", {"b.weight": ("lif_a",)}, ())]
    ),
    "random numbers everywhere": Case(
        stochastic, [("1", {"0.weight": INPUT}, ()), ("5", {"3.weight": ("1",)}, ()), ("8", {"6.weight": ("5",)}, ())]
    ),
    "shared weight": Case(
        shared_weight,
        [("1", {"0.weight": INPUT}, ()), ("3", {"2.weight": ("1",)}, ()), ("5", {"4.weight": ("3",)}, ())],
    ),
    "frozen": Case(frozen, SEQUENTIAL),
    "weight_norm": Case(parametrised(parametrizations.weight_norm), in_a_row("parametrizations.weight.original1")),
    "spectral_norm": Case(parametrised(parametrizations.spectral_norm), SEQUENTIAL),
    "orthogonal": Case(parametrised(parametrizations.orthogonal), SEQUENTIAL),
    "weight_norm by hook": Case(parametrised(weight_norm), in_a_row("weight_v")),
    "spectral_norm by hook": Case(parametrised(spectral_norm), SEQUENTIAL),
    "hooks that change outputs": Case(with_hooks_that_change_outputs, SEQUENTIAL),
    "model.compile()": Case(compiled_in_place, SEQUENTIAL),
    "torch.compile(model)": Case(
        lambda: compiled(sequential()),
        [
            ("_orig_mod.1", {"_orig_mod.0.weight": INPUT}, ()),
            ("_orig_mod.3", {"_orig_mod.2.weight": ("_orig_mod.1",)}, ()),
            ("_orig_mod.5", {"_orig_mod.4.weight": ("_orig_mod.3",)}, ()),
        ],
    ),
    "a layer compiled": Case(
        lambda: nn.Sequential(compiled(nn.Linear(20, 12)), LIF(), nn.Linear(12, 4), LIF()),
        [("1", {"0._orig_mod.weight": INPUT}, ()), ("3", {"2.weight": ("1",)}, ())],
    ),
}
