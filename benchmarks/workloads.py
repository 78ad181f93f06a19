"""What every contestant is given to do: four workloads with a time step of 1 ms, and their data.

Only NumPy is needed here, so that another library can be run in an environment of its own, with or without torch.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

DT, TAU_MEM, TAU_SYN = 1e-3, 10e-3, 5e-3  # seconds
DECAY_MEM, DECAY_SYN = float(np.exp(-DT / TAU_MEM)), float(np.exp(-DT / TAU_SYN))
THRESHOLD = 0.25  # of the population that is timed alone: about 4 % of its entries are spikes


class Unfit(Exception):
    """A contestant cannot do this work; the message says why. No failure: the tables tell it."""


@dataclass(frozen=True)
class Workload:
    """A job and its size.

    Attributes:
        name: of the workload.
        title: what it is, in a line.
        steps: `T`.
        batch: `B`.
        shape: of one sample at one time step.
        width: neurons of a hidden layer; of a convolutional network, channels of its first layer.
        depth: hidden layers.
        classes: 0 for a population alone.
        density: share of the input's entries that are spikes.
    """

    name: str
    title: str
    steps: int
    batch: int
    shape: tuple[int, ...]
    width: int
    depth: int
    classes: int
    density: float

    @property
    def spikes(self) -> Floats:
        """Input `[T, B, *shape]` of 0 and 1."""
        drawn = np.random.default_rng(1234).random((self.steps, self.batch, *self.shape), dtype=np.float32)
        return (drawn < self.density).astype(np.float32)

    @property
    def labels(self) -> Labels:
        """Classes `[B]`."""
        return np.arange(self.batch) % self.classes

    @property
    def current(self) -> Floats:
        """Input current `[T, B, *shape]` of a population alone."""
        noise = np.random.default_rng(1234).standard_normal((self.steps, self.batch, *self.shape), dtype=np.float32)
        return noise * np.float32(0.25) + np.float32(0.1)

    @property
    def upstream(self) -> Floats:
        """Gradient `[T, B, *shape]` with respect to the spikes of a population alone."""
        return np.random.default_rng(4321).standard_normal((self.steps, self.batch, *self.shape), dtype=np.float32)

    def sized(self, **sizes: Any) -> "Workload":
        """The same job in another size."""
        return replace(self, **sizes)


W1 = Workload("W1", "feed-forward 700-128-128-128-20", 350, 128, (700,), 128, 3, 20, 0.03)
W2 = Workload("W2", "recurrent 700-256-20", 350, 128, (700,), 256, 1, 20, 0.03)
W3 = Workload("W3", "convolutional 2x34x34, 16-32-64 channels, 10 classes", 100, 16, (2, 34, 34), 16, 3, 10, 0.02)
W4 = Workload("W4", "one LIF population of 512 alone", 350, 128, (512,), 512, 1, 0, 0.0)
INITIALISE = replace(W1, name="initialise", title="fluctua.initialize on the network and batch of W1")

WORKLOADS = {w.name: w for w in (W1, W2, W3, W4, INITIALISE)}
QUICK = {
    name: w.sized(steps=12, batch=4, width=8, shape=(16,) if len(w.shape) == 1 else (2, 8, 8))
    for name, w in WORKLOADS.items()
}
"""So small that the times mean nothing: to try the benchmark out."""
