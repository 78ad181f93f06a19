"""Fully connected networks on spike trains `[T, B, N]`."""

import math
from dataclasses import dataclass

from torch import nn

from fluctua.lab.networks.architecture import Architecture
from fluctua.lab.networks.blocks import Cell
from fluctua.layers import DaleLayer, Recurrent, ResidualBlock
from fluctua.layers.blocks import OneToOne
from fluctua.neurons import SuperSpike
from fluctua.theory.laws import Exponential, OneSided


@dataclass(frozen=True, kw_only=True)
class FullyConnected(Architecture):
    """`depth` populations of `width` neurons, one after the other; if `recurrent`, each with recurrence."""

    shape: tuple[int, ...] = (700,)
    width: int = 128
    depth: int = 3
    recurrent: bool = False

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        cell, layers = self.cells(dt), list[nn.Module]()
        for n in [*shape, *[self.width] * (self.depth - 1)]:
            layers.append(nn.Linear(n, self.width, bias=False))
            back = nn.Linear(self.width, self.width, bias=False)
            layers.append(Recurrent(cell(), back) if self.recurrent else cell())
        return layers, self.width


@dataclass(frozen=True, kw_only=True)
class Dale(Architecture):
    """One layer under Dale's law: `width` excitatory neurons, fewer inhibitory ones, all recurrent.

    Attributes:
        ratio: excitatory neurons per inhibitory one.
        tau_inh: time constant of the inhibitory current in seconds; `tau_syn` is that of the excitatory one.
        family: weight law.
    """

    shape: tuple[int, ...] = (700,)
    width: int = 128
    ratio: int = 4
    tau_inh: float = 20e-3
    family: OneSided = Exponential()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.surrogate != SuperSpike():
            raise ValueError(f"neurons under Dale's law have the surrogate {SuperSpike()}, not {self.surrogate}")

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        (n_in,) = shape
        taus = {"tau_mem": self.tau_mem, "tau_exc": self.tau_syn, "tau_inh": self.tau_inh}
        n_inh = math.ceil(self.width / self.ratio)
        layer = DaleLayer(n_in, self.width, n_inh, family=self.family, dt=dt, **taus)  # type: ignore[arg-type]
        return [layer], self.width


@dataclass(frozen=True, kw_only=True)
class Residual(Architecture):
    """A layer, and `depth` residual blocks of two layers each, with one-to-one skips."""

    shape: tuple[int, ...] = (700,)
    width: int = 128
    depth: int = 20

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        cell, (n_in,) = self.cells(dt), shape
        stem = [nn.Linear(n_in, self.width, bias=False), cell()]
        return [*stem, *[self._block(cell) for _ in range(self.depth)]], self.width

    def _block(self, cell: Cell) -> ResidualBlock:
        first, second = (nn.Linear(self.width, self.width, bias=False) for _ in range(2))
        return ResidualBlock(nn.Sequential(first, cell(), second), OneToOne(self.width), cell())


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
    settings = FullyConnected(width=width, depth=depth, tau_mem=tau_mem, tau_syn=tau_syn)
    return settings.build((n_in,), n_out, dt=dt, duration=duration)
