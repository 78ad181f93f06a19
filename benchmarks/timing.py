"""What the benchmarks share: fair timing on a machine whose speed drifts."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Step = Callable[[], object]
Seconds = dict[str, list[float]]


def interleaved(steps: Mapping[str, Step], rounds: int, clock: Callable[[], float] = time.perf_counter) -> Seconds:
    """Seconds of each step in each round, after one round of warm-up: drift hits all of them alike."""
    seconds: Seconds = {name: [] for name in steps}
    for k in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if k:
                seconds[name].append(clock() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each step, in seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(seconds: Mapping[str, Sequence[float]], unit: str) -> str:
    """A line for each step: median, least and largest time in ms, and the median as a multiple of the step `unit`."""
    middle = medians(seconds)
    lines = [f"{'':>30} {'median ms':>9} {'min to max':>16} {'/ ' + unit:>16}"]
    for name, values in seconds.items():
        spread = f"{min(values) * 1e3:.0f} to {max(values) * 1e3:.0f}"
        lines.append(f"{name:>30} {middle[name] * 1e3:9.1f} {spread:>16} {middle[name] / middle[unit]:16.2f}")
    return "\n".join(lines)
