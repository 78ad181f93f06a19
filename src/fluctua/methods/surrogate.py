"""The sharpness of surrogates: set so that a wanted share of neurons and steps carries the gradient."""

import math
from collections.abc import Collection, Mapping
from typing import Literal

from fluctua.methods.root import find_crossing
from fluctua.network.adapters.framework import Sharpness
from fluctua.network.facts import Population
from fluctua.state.backward import Course, Drive, sharpness_of
from fluctua.state.measure import Measurements
from fluctua.state.summary import SHARE, listed, of_whom

Wanted = Literal["share"] | float | None

_NEAR = 0.01  # relative distance from the share at which to stop
_FAR = 0.1  # relative distance from which to warn
_FIRST, _CALLS = math.log(2), 16  # first step of the logarithm of the sharpness, and the maximal number of steps


def checked(wanted: Wanted) -> Wanted:
    """Refuse an invalid sharpness.

    Raises:
        ValueError: neither "share" nor a positive, finite number nor None.
    """
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
    if wanted in (None, "share") or (number and 0 < float(wanted) < math.inf):  # type: ignore[arg-type]
        return wanted
    raise ValueError(f'surrogate= is "share", a sharpness above 0, or None to leave surrogates alone, got {wanted!r}')


def set_surrogates(
    populations: Collection[Population], measured: Mapping[str, Measurements], wanted: Wanted
) -> tuple[list[str], list[str]]:
    """Set the sharpness of the surrogate of each spiking population.

    Args:
        populations: the populations.
        measured: measurements of each, with its drive, by name.
        wanted: "share" for a participation share of `SHARE`, or the sharpness itself.

    Returns:
        Notes on populations that could not be set, and a warning about silent ones.
    """
    notes, silent = list[tuple[str, str]](), list[str]()
    for p in (p for p in populations if p.neuron.threshold is not None):
        knob, spikes, drive = sharpness_of(p), measured[p.name].spikes, measured[p.name].drive
        if knob is None:
            notes.append(("was left as it is: fluctua knows no parameter for its sharpness", p.name))
        elif isinstance(wanted, int | float):
            knob.put(float(wanted))
        elif spikes is None or drive is None or not spikes.any():
            silent.append(p.name)
        else:
            notes += [(note, p.name) for note in _fit(p, knob, drive)]
    told = [f"the surrogate of {names} {what}" for what, names in of_whom(notes).items()]
    of_silent = f"the surrogate of {listed(silent)} was left as it is: no neuron fires on this batch"
    return told, [of_silent] if silent else []


def _fit(p: Population, knob: Sharpness, drive: Drive) -> list[str]:
    """Bring the participation share of a population to `SHARE`, or as close as its surrogate allows."""
    try:
        course = Course.of(p, drive)
    except ValueError as error:
        return [f"was left as it is: its neurons cannot be followed step by step ({error}); give a number instead"]

    def off(x: float) -> float:
        """Logarithm of the share at a sharpness over the wanted share."""
        knob.put(float(f"{math.exp(x):.3g}"))
        return math.log(max(course.share(), 1e-9) / SHARE)

    start = math.log(knob.value)
    sharper = math.copysign(_FIRST, off(start))  # sharper surrogates have a smaller share
    nearest, left, flat = find_crossing(off, start, sharper, enough=_NEAR, calls=_CALLS)
    knob.put(knob.value if flat else float(f"{math.exp(nearest):.3g}"))
    if flat:
        return [f"was left as it is: its {knob.name} does not change how many neurons take part"]
    if abs(left) > _FAR:
        share = SHARE * math.exp(left)
        return [f"brings its participation share no nearer to {SHARE:g} than {share:.2f}, whatever its {knob.name}"]
    return []
