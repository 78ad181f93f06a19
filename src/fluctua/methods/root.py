"""Where a measured function is zero."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PROBE = 0.1  # step of the first differences: large against the noise of a measurement
_LONGEST = 0.25  # largest change of an unknown in one step
_HARDLY = 1e-2  # of the strongest answer, per step: weaker ones are lost in the noise of the differences


def find_root(measure: Callable[[Array], Array], start: Array, *, enough: float, calls: int) -> tuple[Array, float]:
    """The point at which `measure` comes closest to zero, by Broyden's method (1965) with bounded, shortened steps.

    Made for a function that is costly, a little noisy and not smooth: a derivative is taken by differences once and
    then learnt on the way; a step that leads away from zero is halved. A direction in which the residuals hardly
    answer is not followed.

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


def _size(residual: Array) -> float:
    return float(np.abs(residual).max()) if np.isfinite(residual).all() else np.inf
