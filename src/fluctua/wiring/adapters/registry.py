"""From a module to the facts of its neuron, if it is one.

A table maps the full name of a neuron class to a function that reads its facts. Classes are known by name, so the
framework they come from need not be importable here; a subclass is served by the entry of its nearest base class.
"""

from collections.abc import Mapping

from torch import nn

from fluctua.wiring.adapters import own
from fluctua.wiring.adapters.facts import Facts
from fluctua.wiring.graph import Member, Neuron

_TABLES: tuple[Facts, ...] = (own.FACTS,)


def members_of(module: nn.Module) -> Mapping[str, Member]:
    """The populations of a module by name, "" for the one of a plain neuron; none where it is no known neuron."""
    for base in type(module).__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        for table in _TABLES:
            if name in table:
                facts = table[name](module)
                if isinstance(facts, Neuron):
                    return {"": Member(facts, module, tuple(range(len(facts.kernels))))}
                return facts
    return {}
