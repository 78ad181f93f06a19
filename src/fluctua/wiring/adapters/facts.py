"""The form of an adapter's table: full name of a neuron class -> function that reads its facts from a module."""

from collections.abc import Callable, Mapping
from typing import Any

from fluctua.wiring.graph import Neuron

Facts = Mapping[str, Callable[[Any], Neuron]]
