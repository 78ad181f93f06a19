"""The sharpness of surrogates: as sharp as lets a wanted share of neurons and steps carry the gradient."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fluctua.network.adapters.framework import Sharpness
from fluctua.network.cells import sharpness_of
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Population
from fluctua.state.backward import Course, Drive
from fluctua.state.summary import SHARE, listed, of_whom

Wanted = Literal["share"] | float | None

_NEAR = 0.01  # distance from the share at which to stop, in parts of it
_DOUBLINGS, _HALVINGS = 20, 20


@dataclass
class Told:
    """What a user should know of the surrogates that were, or were not, set."""

    notes: list[tuple[str, str]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    @property
    def all_notes(self) -> list[str]:
        """A sentence for each thing to know."""
        return [f"the surrogate of {names} {what}" for what, names in of_whom(self.notes).items()]

    @property
    def warnings(self) -> list[str]:
        """A sentence for all populations of which nothing could be measured."""
        if not self.silent:
            return []
        return [f"the surrogate of {listed(self.silent)} was left as it is, for no neuron fires on this batch"]


def checked(wanted: Wanted) -> Wanted:
    """Refuse what is no sharpness.

    Raises:
        ValueError: neither "share" nor a positive, finite number nor None.
    """
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
    if wanted in (None, "share") or (number and 0 < float(wanted) < math.inf):  # type: ignore[arg-type]
        return wanted
    raise ValueError(f'surrogate= is "share", a sharpness above 0, or None to leave surrogates as they are: {wanted!r}')


def set_surrogates(
    populations: Collection[Population], drives: Mapping[str, Drive], fired: Collection[str], wanted: Wanted
) -> Told:
    """Set the sharpness of the surrogate of each spiking population.

    Args:
        populations: whose.
        drives: what each hears, by name.
        fired: names of those that do not stay silent.
        wanted: "share" for a participation share of `SHARE`, or the sharpness itself.
    """
    told = Told()
    for p in (p for p in populations if p.neuron.threshold is not None):
        knob = sharpness_of(p)
        if knob is None:
            told.notes.append(("was left as it is: it has no parameter for its sharpness that fluctua knows", p.name))
        elif isinstance(wanted, int | float):
            knob.put(float(wanted))
        elif p.name not in fired:
            told.silent.append(p.name)
        else:
            told.notes += [(note, p.name) for note in _fit(p, knob, drives[p.name])]
    return told


def _fit(p: Population, knob: Sharpness, drive: Drive) -> list[str]:
    """Bring the participation share of a population to `SHARE`, or as near as its surrogate allows."""
    try:
        course = Course.of(p, drive)
    except (ValueError, UnsupportedNeuronError) as error:
        return [f"was left as it is, for its neurons cannot be followed step by step: {error}; give a number instead"]

    def share(value: float) -> float:
        knob.put(value)
        return course.share()

    low = high = knob.value
    at_low = at_high = share(knob.value)
    for _ in range(_DOUBLINGS):  # outwards on both sides: some parameters are widths
        if min(at_low, at_high) <= SHARE <= max(at_low, at_high):
            break
        low, high = low / 2, high * 2
        at_low, at_high = share(low), share(high)
    else:
        nearest = min((abs(s - SHARE), s, v) for s, v in ((at_low, low), (at_high, high), (share(knob.value), knob.value)))
        knob.put(nearest[2] if nearest[0] < 1e-3 else knob.value)
        return [f"was left as it is, for no {knob.name} brings its participation share to {SHARE:g}"]
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        found = share(middle)
        if abs(found / SHARE - 1) < _NEAR:
            break
        low, high = (middle, high) if (found > SHARE) == (at_low > at_high) else (low, middle)
    return []
