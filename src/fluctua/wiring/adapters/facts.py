"""The form of an adapter's table: full name of a neuron class -> function that reads its facts from a module.

The function returns a `Neuron`, or for a module that holds several populations, or synapses of its own, a `Member` for
each population by name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fluctua.wiring.graph import Member, Neuron

Facts = Mapping[str, Callable[[Any], Neuron | Mapping[str, Member]]]
