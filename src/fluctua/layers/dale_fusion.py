"""Two populations under Dale's law side by side, as one fused operation takes them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluctua.layers.fusion import demand, demand_cpu, demand_ordinary
from fluctua.neurons import ExcInhLIF
from fluctua.spikes.batch import SpikeBatch

if TYPE_CHECKING:  # numba is imported when a first network runs
    from fluctua.timeloop.events_layers import Layer

Pair = tuple[Tensor, Tensor]
"""Weights into the excitatory and into the inhibitory population."""


@dataclass(frozen=True, eq=False)
class DalePair:
    """An excitatory and an inhibitory population that can be fused, but for the weights in front of them."""

    layer: "Layer"

    @classmethod
    def of(cls, cells: tuple[ExcInhLIF, ExcInhLIF], exc: Pair | None, inh: Pair, like: Tensor) -> "DalePair":
        """Both populations.

        Args:
            cells: E and I, no subclasses.
            exc: weights from E into both, or None.
            inh: weights from I into both.
            like: a tensor of the input's type.

        Raises:
            Unfused: they have to be stepped through.
        """
        n_exc, n_inh = sizes = inh[0].shape
        for weights, columns in ((exc or (), n_exc), (inh, n_inh)):
            demand_ordinary(like, *weights)
            shapes = [tuple(w.shape) for w in weights]
            fits = all(shape == (n, columns) for shape, n in zip(shapes, sizes, strict=False))
            demand(fits, f"weights {shapes} do not fit their populations")
        mine = [cell.dynamics().to(like) for cell in cells]
        demand(mine[0].step == mine[1].step, "the neurons are of two kinds")
        for dynamics, n in zip(mine, sizes, strict=True):
            demand_cpu(dynamics, n, like)

        from fluctua.timeloop.events_layers import Layer

        def joined(constants: tuple[Tensor, ...]) -> Tensor:
            return torch.cat([c.reshape(-1).expand(n) for c, n in zip(constants, sizes, strict=True)])

        constants = tuple(joined(pair) for pair in zip(mine[0].constants, mine[1].constants, strict=True))
        both = replace(mine[0], constants=constants)
        from_inh = torch.cat(inh)
        from_exc = from_inh.new_zeros(len(from_inh), n_exc) if exc is None else torch.cat(exc)
        return cls(Layer(tuple(sizes), both, recurrent=torch.cat([from_exc, from_inh], 1)))

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of neurons."""
        exc, inh = self.layer.sections
        return exc, inh

    def run(self, x: Tensor, weight: Tensor | None = None, spikes: SpikeBatch | None = None) -> dict[str, Tensor]:
        """Spikes of both populations: see `timeloop.events_layers.run_layers`."""
        from fluctua.timeloop.events_layers import run_layers

        return dict(zip(("exc", "inh"), run_layers(x, [replace(self.layer, weight=weight)], spikes), strict=True))
