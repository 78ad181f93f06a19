"""What a NIR neuron does in one time step.

NIR gives the differential equations of a neuron but neither time step nor discretisation, and the frameworks that
write it do not agree on units: the file alone does not fix the kernel. Each convention here says what the numbers of a
node mean, as constants per step of ::

    I <- b I + x, or x without synaptic current        U <- leak + a (U - leak) + gain I

"euler" and "exact" take the equations literally; the others follow a framework's own exporter, at the version named
beside it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluctua.network.errors import UnsupportedNeuronError
from fluctua.neurons.current_based import CurrentBased
from fluctua.neurons.steps import Reset
from fluctua.neurons.surrogates import Surrogate
from fluctua.theory.psp import Array


@dataclass(frozen=True, eq=False)
class Node:
    """A neuron node as numbers.

    Attributes:
        a: decay of the membrane per step.
        b: decay of the synaptic current per step; 0 without one.
        x: `dt / tau` of the membrane; 0 for a perfect integrator.
        y: `dt / tau` of the synapse; 0 without one.
        r: resistance.
        w_in: weight of the synaptic current's input.
        dt: time step in seconds.
    """

    a: Array
    b: Array
    x: Array
    y: Array
    r: Array
    w_in: Array
    dt: float


Gain = Callable[[Node], Array]


@dataclass(frozen=True)
class Convention:
    """The meaning of a node's numbers.

    Attributes:
        gains: node class -> gain of the membrane; other classes cannot be served.
        exact: whether decays are exponential or those of Euler steps.
        dt: the time step that the exporter assumes; None if only the user knows.
        reset: what a spike does.
        ratio: `(tau in the file, dt) -> dt / tau`.
    """

    gains: Mapping[str, Gain]
    exact: bool = False
    dt: float | None = None
    reset: Reset = "zero"
    ratio: Callable[[Array, float], Array] = lambda tau, dt: dt / tau

    def decay(self, ratio: Array) -> Array:
        """`dt / tau` -> factor per step."""
        return np.exp(-ratio) if self.exact else 1 - ratio


def _equations(x: Gain, y: Gain) -> Mapping[str, Gain]:
    """The gains of NIR's own equations: of the input per step a membrane takes `x`, a synapse `y`."""
    return {
        **dict.fromkeys(("LIF", "LI"), lambda n: n.r * x(n)),
        **dict.fromkeys(("CubaLIF", "CubaLI"), lambda n: n.r * x(n) * n.w_in * y(n)),
        **dict.fromkeys(("IF", "I"), lambda n: n.r * n.dt),
    }


_EULER = _equations(lambda n: n.x, lambda n: n.y)
_EXACT = _equations(lambda n: 1 - n.a, lambda n: 1 - n.b)
# LIFCell has no factor dt / tau_syn; its time constants are written as dt tau.
_NORSE: Mapping[str, Gain] = {
    "LIF": lambda n: n.r * n.x,
    "LI": lambda n: n.r * n.x,
    "CubaLIF": lambda n: n.r * n.x * n.w_in,
    "IF": lambda n: n.r,
}
# `norm_input` is not written; assumed to be the default, which is on for LIF and off for ExpLeak.
_SINABS: Mapping[str, Gain] = {"LIF": lambda n: n.r * (1 - n.a), "LI": lambda n: n.r, "IF": lambda n: n.r}
# r is written only for the import and is not what the neuron does: LIFTorch, LIFNeuronTorch and ExpSynTorch (LI).
_ROCKPOOL: Mapping[str, Gain] = {
    "LIF": lambda n: np.ones_like(n.a),
    "LI": lambda n: n.a,
    "CubaLIF": lambda n: n.w_in * n.b,
}

CONVENTIONS: Mapping[str, Convention] = {
    "euler": Convention(_EULER),
    "exact": Convention(_EXACT, exact=True),
    "snntorch": Convention(_EULER, dt=1e-4),  # 1.0.0
    "norse": Convention(_NORSE, dt=1e-3, ratio=lambda tau, dt: dt * dt / tau),  # 1.1.0
    "spikingjelly": Convention(_EULER, dt=1e-4),  # 2.0.0
    "sinabs": Convention(_SINABS, exact=True, reset="subtract", ratio=lambda tau, dt: 1 / tau),  # 3.1.3
    "rockpool": Convention(_ROCKPOOL, exact=True, reset="subtract"),  # 3.1.0
}

NEURONS = frozenset(name for convention in CONVENTIONS.values() for name in convention.gains)


def convention_of(name: str, dt: float | None) -> tuple[Convention, float]:
    """The convention of that name, and the time step under it.

    Raises:
        ValueError: an unknown name, or no time step.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"unknown convention {name!r}: choose one of {', '.join(CONVENTIONS)}")
    convention = CONVENTIONS[name]
    step = convention.dt if dt is None else dt
    if step is None:
        raise ValueError(f"a NIR graph has no time step: give dt= in seconds (convention {name!r} implies none)")
    if not 0 < float(step) < float("inf"):
        raise ValueError(f"the time step of a NIR graph must be positive and finite, got dt={step}: give it in seconds")
    return convention, float(step)


def neuron_of(name: str, node: Any, convention: Convention, dt: float, surrogate: Surrogate | None) -> CurrentBased:
    """The neuron that a node stands for.

    Raises:
        UnsupportedNeuronError: a class that the framework cannot have written, or unstable constants.
    """
    kind = type(node).__name__
    if kind not in convention.gains:
        raise UnsupportedNeuronError(
            f"the node {name} is a {kind}, which this convention does not know (it knows "
            f"{', '.join(convention.gains)}): choose that of the framework that wrote the graph, 'euler' or 'exact'"
        )
    zero = np.zeros(())
    membrane = getattr(node, "tau_mem", getattr(node, "tau", None))
    x = zero if membrane is None else convention.ratio(numbers(membrane), dt)
    y = convention.ratio(numbers(node.tau_syn), dt) if kind.startswith("Cuba") else zero
    a, b = convention.decay(x), convention.decay(y)
    for ratio, decay in ((x, a), (y, b)):
        if not np.all((decay >= 0) & (decay <= 1) & (ratio >= 0)):
            raise UnsupportedNeuronError(
                f"the node {name} has a time constant of {1 / np.max(ratio):.3g} time steps, which makes it unstable: "
                "check the unit of dt and the convention"
            )
    constants = Node(a, b, x, y, numbers(node.r), numbers(getattr(node, "w_in", 1.0)), dt)
    return CurrentBased(
        a,
        convention.gains[kind](constants),
        dt,
        decay_syn=b if kind.startswith("Cuba") else None,
        leak=numbers(getattr(node, "v_leak", 0.0)),
        threshold=numbers(node.v_threshold) if hasattr(node, "v_threshold") else None,
        v_reset=numbers(getattr(node, "v_reset", 0.0)),
        reset=convention.reset,
        surrogate=surrogate,
    )


def numbers(values: Any) -> Array:
    """The values of a node's field, which some exporters leave as torch tensors; one number as a scalar."""
    array = np.asarray(values, float)
    return array.reshape(()) if array.size == 1 else array
