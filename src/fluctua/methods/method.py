"""What a method is: a frozen value that finds the weights of a network, a group of populations at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from math import sqrt
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from fluctua.network.network import Group, Network
from fluctua.network.replay import Replay
from fluctua.theory.membrane import Moments
from fluctua.theory.target import Target


class Method(ABC):
    """How weights are found; a frozen dataclass whose fields are what may be chosen.

    Class attributes:
        aims: whether it brings populations to a target; one that does not knows none.
        measures: whether it measures the batch, which then must not be silent; else that only shows the wiring.
        measures: whether it measures the batch, which then must not be silent; else that only shows the wiring.
    """

    aims: ClassVar[bool] = False
    measures: ClassVar[bool] = True
    measures: ClassVar[bool] = True

    def begin(self, network: Network, generator: torch.Generator) -> None:  # noqa: B027 - most have nothing to do
        """What comes before the first group and concerns the model as a whole, such as layers that feed no neuron."""

    @abstractmethod
    def solve(
        self, group: Group, targets: Mapping[str, Target], replay: Replay, generator: torch.Generator
    ) -> dict[str, Moments]:
        """Find the weights into the populations of a group, and write them.

        Args:
            group: populations that hear each other, or a single one; what they hear besides is final.
            targets: of those whose weights are to be written, by name; the others stay as they are.
            replay: passes of the network up to the group.
            generator: of all draws.

        Returns:
            The moments of the free potential that were aimed at, by name of the population; none where `aims` is False.
        """

    def end(self, network: Network) -> None:  # noqa: B027
        """What comes after the last group and is no weight, such as a surrogate that belongs to the method."""


_NAMED: Mapping[str, tuple[str, str, dict[str, Any]]] = MappingProxyType(
    {
        "measured": ("measured", "Measured", {}),
        "poisson": ("poisson", "Poisson", {}),
        "kaiming": ("baselines.classic", "Kaiming", {}),
        "kaiming-relu": ("baselines.classic", "Kaiming", {"gain": sqrt(2)}),
        "kaiming-folded": ("baselines.classic", "Kaiming", {"folded": True}),
        "xavier": ("baselines.classic", "Xavier", {}),
        "torch": ("baselines.classic", "TorchDefault", {}),
        "ding": ("baselines.ding", "Ding", {}),
        "micheli": ("baselines.micheli", "Micheli", {}),
        "spikeinit": ("baselines.spikeinit", "SpikeInit", {}),
        "spikeinit-sim": ("baselines.spikeinit", "SpikeInit", {"simulated": True}),
        "tdbn": ("baselines.tdbn", "TdBN", {}),
        "lsuv": ("baselines.lsuv", "LSUV", {}),
        "ei-init": ("baselines.ei_init", "EIInit", {}),
    }
)
NAMES = tuple(_NAMED)
"""All methods by name; the module of one is imported when it is asked for."""


def method_of(method: Method | str, **options: Any) -> Method:
    """A method, or the one of that name, with some of its fields changed.

    Raises:
        ValueError: an unknown name, or a field that the method does not have.
    """
    if isinstance(method, str):
        if method not in _NAMED:
            raise ValueError(f"unknown method {method!r}: choose one of {', '.join(NAMES)}")
        module, name, defaults = _NAMED[method]
        found: Any = getattr(import_module(f"fluctua.methods.{module}"), name)(**defaults)
    elif isinstance(method, Method):
        found = method
    else:
        raise ValueError(f"a method is a value such as Measured(), or a name, got {method!r}: choose a name of {NAMES}")
    names = [field.name for field in fields(found)]
    if unknown := sorted(set(options) - set(names)):
        raise ValueError(f"{type(found).__name__} has no field {unknown[0]!r}: it has {', '.join(names) or 'none'}")
    chosen: Method = replace(found, **options) if options else found
    return chosen
