"""Where a measured function is zero."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from fluctua.theory.psp import Array

_PROBE = 0.1  # step of the first differences: large against the noise of a measurement
_LONGEST = 0.25  # largest change of an unknown in one step
_HARDLY = 1e-2  # of the strongest answer, per step: weaker ones are lost in the noise of the differences


def find_root(measure: Callable[[Array], Array], start: Array, *, enough: float, calls: int) -> tuple[Array, float]:
    """The point at which `measure` comes closest to zero, by Broyden's method (1965) with bounded, shortened steps.

    For a function that is costly, slightly noisy and not smooth. Differences give the first derivative, which is then
    updated along the way; a step that leads away from zero is halved. Directions in which the residuals hardly change
    are not followed.

    Args:
        measure: n numbers -> n residuals; not finite where it cannot be evaluated.
        start: n numbers.
        enough: largest residual at which to stop.
        calls: of `measure`, at most.

    Returns:
        The best point that was met, and its largest residual.
    """
    best, residual = start, measure(start)
    calls -= 1
    if _size(residual) <= enough or calls < len(start):
        return best, _size(residual)
    jacobian, origin = np.eye(len(start)), residual
    for k, direction in enumerate(np.eye(len(start))):
        probe = start + _PROBE * direction
        found = measure(probe)
        calls -= 1
        if np.isfinite(found - origin).all():
            jacobian[:, k] = (found - origin) / _PROBE
        if _size(found) < _size(residual):
            best, residual = probe, found
    shortening = 1.0
    while calls > 0 and enough < _size(residual) < np.inf:
        step = np.clip(-np.linalg.pinv(jacobian, rcond=_HARDLY) @ residual, -_LONGEST, _LONGEST) * shortening
        found = measure(best + step)
        calls -= 1
        if np.isfinite(found).all() and (length := float(step @ step)) > 0:
            jacobian = jacobian + np.outer(found - residual - jacobian @ step, step) / length
        if _size(found) < _size(residual):
            best, residual, shortening = best + step, found, min(1.0, 2 * shortening)
        else:
            shortening /= 2
    return best, _size(residual)


_SECANTS, _FAR = 8, math.log(8)  # before intervals are halved; largest step
_FLAT = 1e-3


def find_crossing(
    measure: Callable[[float], float], start: float, step: float, *, enough: float, calls: int
) -> tuple[float, float, bool]:
    """Search the zero of a monotonic function of one number: by secants, then by halving.

    Args:
        measure: the function.
        start: where to begin.
        step: to the second point.
        enough: distance from zero at which to stop.
        calls: of `measure`, at most.

    Returns:
        The point that came nearest, the value there, and whether the function is flat: of two values that hardly
        differ no third is tried, and no point twice.
    """
    x, seen, flat = start, {start: measure(start)}, False
    while abs(seen[x]) >= enough and len(seen) < calls and not flat:
        x = x + step if len(seen) == 1 else _next(seen)
        if x in seen:
            break
        seen[x] = measure(x)
        flat = max(seen.values()) - min(seen.values()) < _FLAT
    nearest = min(seen, key=lambda x: abs(seen[x]))
    return nearest, seen[nearest], flat


def _next(seen: Mapping[float, float]) -> float:
    """The next point: by a secant, or half-way if the sign changes and the secant leaves that interval, or none."""
    (x1, f1), (x0, f0) = sorted(seen.items(), key=lambda entry: abs(entry[1]))[:2]
    step = -f1 * (x1 - x0) / (f1 - f0) if f1 != f0 else _FAR
    x = x1 + min(max(step, -_FAR), _FAR)
    above, below = ([v for v, f in seen.items() if (f > 0) == side] for side in (True, False))
    if above and below:
        one, other = min(((a, b) for a in above for b in below), key=lambda pair: abs(pair[0] - pair[1]))
        if not min(one, other) < x < max(one, other) or len(seen) > _SECANTS:
            return (one + other) / 2
    return x


def _size(residual: Array) -> float:
    return float(np.abs(residual).max()) if np.isfinite(residual).all() else np.inf
