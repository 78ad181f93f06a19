"""What can be wrong with a model or a batch, and which axis of a batch is time."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Axis = Literal[0, 1] | None
"""Which axis of a batch is time; None for a static input."""

AXES: Mapping[Axis, str] = MappingProxyType({0: "[T, B, ...]", 1: "[B, T, ...]", None: "[B, ...]"})


class BatchError(ValueError):
    """The batch cannot be used; the message says why."""


class WiringError(ValueError):
    """The model's wiring cannot be read; the message says why and what to do.

    Example:
        >>> import fluctua
        >>> fluctua.inspect(torch.nn.Linear(3, 2), torch.rand(10, 4, 3))
        Traceback (most recent call last):
        fluctua.network.errors.WiringError: no spiking neuron found in the model: ...
    """

    weight: str | None = None  # the weight outside a layer of its own, if that is the fault


class UnsupportedNeuronError(ValueError):
    """A known neuron class that cannot be served; the message says why, and what to do."""
