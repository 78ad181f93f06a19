"""Deep networks in long enough trials: activity needs time to arrive (docs/depth.md)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.depth import Depth
from fluctua.lab.sweeps.study import Setting
from fluctua.neurons import SuperSpike


@dataclass(frozen=True, kw_only=True)
class DepthInTime(Depth):
    """`Depth` with a surrogate that passes gradients through many layers.

    Attributes:
        beta: its steepness. At 20 the gradient shrinks by half in every layer, so that layer 1 of 20 gets none.
    """

    title: ClassVar[str] = "Twenty layers: accuracy where trials are long enough"

    beta: float = 2.0

    def network(self, setting: Setting) -> FullyConnected:
        return replace(super().network(setting), surrogate=SuperSpike(self.beta))
