"""Which fused operations ran."""

from typing import Any

import pytest
from torch import Tensor

from fluctua.timeloop import events_layers


def fused_calls(patch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each fused operation has that runs from now on."""
    counts, original = list[int](), events_layers.run_to_end

    def counting(x: Tensor, layers: Any, spikes: Any = None) -> Any:
        counts.append(len(layers))
        return original(x, layers, spikes)

    patch.setattr(events_layers, "run_to_end", counting)
    return counts
