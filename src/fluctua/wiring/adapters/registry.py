"""From a module to the facts of its neuron, if it is one.

A table maps the full name of a neuron class to a function that reads its facts. Classes are known by name, so the
framework they come from need not be importable here; a subclass is served by the entry of its nearest base class.
"""

from torch import nn

from fluctua.wiring.adapters import own
from fluctua.wiring.adapters.facts import Facts
from fluctua.wiring.graph import Neuron

_TABLES: tuple[Facts, ...] = (own.FACTS,)


def facts_of(module: nn.Module) -> Neuron | None:
    """The neuron's facts, or None where the module is no known neuron."""
    for base in type(module).__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        for table in _TABLES:
            if name in table:
                return table[name](module)
    return None
