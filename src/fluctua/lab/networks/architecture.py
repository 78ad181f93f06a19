"""The base class of all networks of the experiments."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

from torch import nn

from fluctua.layers import FusedSequential
from fluctua.neurons import LI, LIF, SuperSpike
from fluctua.neurons.surrogates import Surrogate


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """A network, except for the size of its data and the time step: hidden layers and a readout.

    Attributes:
        measured_on: number of samples that suffice to initialise it.
        shape: of one sample at one time step in the experiment that the settings are for.
        tau_mem: membrane time constant in seconds.
        tau_syn: synaptic time constant in seconds.
        surrogate: of the neurons.
    """

    measured_on: ClassVar[int] = 128

    shape: tuple[int, ...]
    tau_mem: float = 20e-3
    tau_syn: float = 10e-3
    surrogate: Surrogate = SuperSpike()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if getattr(self, name, 1) < 1:
                raise ValueError(f"a network's {name} must be at least 1, got {getattr(self, name)}")

    @abstractmethod
    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        """Layers from `[T, B, *shape]` to spikes `[T, B, features]`, and the number of features."""

    def build(self, shape: tuple[int, ...], n_out: int, *, dt: float, duration: float) -> nn.Sequential:
        """The network `[T, B, *shape] -> [T, B, n_out]`, its readout as slow as the trial; times in seconds.

        Raises:
            ValueError: a shape with the wrong number of axes for the network, or too small a map.
        """
        if len(shape) != len(self.shape) or min(shape) < 1:
            wanted = "(units,)" if len(self.shape) == 1 else "(channels, rows, columns)"
            raise ValueError(f"the network takes data of a shape {wanted}, such as {self.shape}, not {shape}")
        layers, features = self.hidden(shape, dt)
        return FusedSequential(*layers, nn.Linear(features, n_out, bias=False), LI(duration, self.tau_syn, dt))

    def with_width(self, width: int) -> Self:
        """The same network with `width` neurons in a layer, or filters in the first layer of a convolutional one."""
        return replace(self, width=width)  # type: ignore[call-arg]

    def with_depth(self, depth: int) -> Self:
        """The same network with `depth` layers or blocks.

        Raises:
            ValueError: a network of fixed depth.
        """
        if not hasattr(self, "depth"):
            raise ValueError("the depth of this network is fixed: leave it out")
        return replace(self, depth=depth)  # type: ignore[call-arg]

    def cells(self, dt: float) -> Callable[[], LIF]:
        """A function that makes its populations of neurons."""
        return partial(LIF, self.tau_mem, self.tau_syn, dt, surrogate=self.surrogate)
