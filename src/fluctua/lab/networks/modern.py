"""A wide recurrent layer for high accuracy: mixed time constants, dropout, optionally adaptive neurons.

In a `FusedSequential` on the CPU all layers run in fused loops, whether their neurons adapt or not.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fluctua.lab.networks.architecture import Architecture
from fluctua.lab.networks.dropout import DropUnits
from fluctua.layers import Recurrent
from fluctua.neurons import LIF, AdaptiveLIF, heterogeneous


@dataclass(frozen=True, kw_only=True)
class ModernRecurrent(Architecture):
    """Recurrent layers with dropout before each and before the readout.

    Time constants are not trained, and networks of the same width have the same ones.

    Attributes:
        width: neurons of a layer.
        depth: layers.
        dropout: probability that an input unit or a hidden neuron is dropped in a sample; recurrent connections within
            a layer have no dropout.
        spread: coefficient of variation of the neurons' time constants, whose means are `tau_mem` and `tau_syn`; 0
            makes all equal.
        adaptation: how far a spike raises the threshold, in units of the threshold; 0 for neurons that do not adapt.
        tau_adapt: time constant of the adaptation in seconds.
    """

    measured_on: ClassVar[int] = 64  # 1024 neurons take 20 MB a sample in 350 steps

    shape: tuple[int, ...] = (700,)
    width: int = 1024
    depth: int = 1
    dropout: float = 0.4
    spread: float = 1 / math.sqrt(3)
    adaptation: float = 0.0
    tau_adapt: float = 0.2

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        layers: list[nn.Module] = [DropUnits(self.dropout)]
        for k, n in enumerate([*shape, *[self.width] * (self.depth - 1)]):
            forth, back = (nn.Linear(m, self.width, bias=False) for m in (n, self.width))
            layers += [forth, Recurrent(self._neurons(k, dt), back), DropUnits(self.dropout)]
        return layers, self.width

    def _neurons(self, layer: int, dt: float) -> LIF:
        tau_mem, tau_syn = self._taus(self.tau_mem, dt, 2 * layer), self._taus(self.tau_syn, dt, 2 * layer + 1)
        if self.adaptation == 0:
            return LIF(tau_mem, tau_syn, dt, surrogate=self.surrogate)
        # What a spike adds to w is (1 - rho) beta.
        beta = self.adaptation / -math.expm1(-dt / self.tau_adapt)
        return AdaptiveLIF(tau_mem, tau_syn, dt, tau_adapt=self.tau_adapt, beta=beta, surrogate=self.surrogate)

    def _taus(self, mean: float, dt: float, seed: int) -> Tensor | float:
        return heterogeneous(mean, (self.width,), cv=self.spread, dt=dt, seed=seed) if self.spread else mean
