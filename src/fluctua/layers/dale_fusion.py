"""Two populations under Dale's law side by side, as one fused operation takes them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluctua.layers.fusion import can_fuse, is_ordinary
from fluctua.neurons import ExcInhLIF
from fluctua.spikes.batch import SpikeBatch

if TYPE_CHECKING:  # numba is imported when a first network runs
    from fluctua.timeloop.events_exc_inh_padded import Kind, Numbers

Pair = tuple[Tensor, Tensor]
"""Weights into the excitatory and into the inhibitory population."""


@dataclass(frozen=True, eq=False)
class DalePair:
    """An excitatory and an inhibitory population that can be fused, but for the weights in front of them."""

    kind: "Kind"
    numbers: "Numbers"

    @classmethod
    def of(cls, cells: tuple[ExcInhLIF, ExcInhLIF], exc: Pair | None, inh: Pair, like: Tensor) -> "DalePair | None":
        """Both populations, or None where they have to be stepped through.

        Args:
            cells: E and I, no subclasses.
            exc: weights from E into both, or None.
            inh: weights from I into both.
            like: a tensor of the input's type.
        """
        n_exc, n_inh = sizes = inh[0].shape
        for weights, columns in ((exc or (), n_exc), (inh, n_inh)):
            if any(not is_ordinary(w, like) or w.shape != (n, columns) for w, n in zip(weights, sizes, strict=False)):
                return None
        loops = [[p.to(like) for p in cell.loop_parameters()] for cell in cells]
        if not all(can_fuse(p, n, like) for mine, n in zip(loops, sizes, strict=True) for p in mine):
            return None
        options = [(c.reset, c.differentiable_reset, c.surrogate) for c in cells]
        if options[0] != options[1]:
            return None

        from fluctua.timeloop.events_exc_inh_padded import Kind, Numbers

        def joined(constants: list[Tensor | None]) -> Tensor:
            return torch.cat([c.reshape(-1).expand(n) for c, n in zip(constants, sizes, strict=True) if c is not None])

        a, b_exc, b_inh = (joined([mine[k].decay_mem for mine in loops]) for k in range(3))
        from_exc = None if exc is None else torch.cat(exc)
        threshold = joined([mine[0].threshold for mine in loops])
        reset, differentiable, surrogate = options[0]
        kind = Kind(n_exc, n_inh, reset == "zero", differentiable, surrogate)
        return cls(kind, Numbers(None, from_exc, torch.cat(inh), a, b_exc, b_inh, threshold))

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of neurons."""
        return self.kind.exc, self.kind.inh

    def run(self, x: Tensor, weight: Tensor | None = None, spikes: SpikeBatch | None = None) -> dict[str, Tensor]:
        """Spikes of both populations: see `timeloop.events_exc_inh.run_exc_inh`."""
        from fluctua.timeloop.events_exc_inh import run_exc_inh

        fired = run_exc_inh(x, self.kind, self.numbers._replace(weight=weight), spikes)
        # A view of each: whoever goes back through the graph tells the two apart.
        return {name: s.view_as(s) for name, s in zip(("exc", "inh"), fired, strict=True)}
