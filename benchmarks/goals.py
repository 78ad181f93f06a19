"""What the project set out to reach, against what was measured."""

from collections.abc import Iterable
from dataclasses import dataclass

from contestants import CHAIN, CONTESTANTS, EVENTS, FUSE, INITIALISE, PLAIN, RELU
from results import Results, Run, table

THREADS = 1
OWN = (PLAIN, FUSE, CHAIN, EVENTS)
LIBRARIES = tuple(c.name for c in CONTESTANTS if c.library)


@dataclass(frozen=True)
class Goal:
    """A ratio and its limit.

    Attributes:
        title: what is compared.
        measured: the ratio.
        limit: it should reach.
        at_most: whether it should be below the limit, or above.
    """

    title: str
    measured: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the ratio is on the good side of the limit."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


def goals(results: Results) -> list[Goal]:
    """All goals that were measured, with one thread."""
    return [*_networks(results), *_population(results), *_initialisation(results)]


def goals_table(found: Iterable[Goal]) -> str:
    """In Markdown."""
    rows = [
        (g.title, f"{'<=' if g.at_most else '>='} {g.limit:g}", f"{g.measured:.2f}", "yes" if g.met else "**no**")
        for g in found
    ]
    return table(("one thread", "goal", "measured", "met"), rows)


def _networks(results: Results) -> Iterable[Goal]:
    for workload in ("W1", "W2"):
        yield from _against_unit(results, workload, FUSE, 0.4)
        yield from _against_unit(results, workload, CHAIN, 0.4)
        yield from _against_unit(results, workload, EVENTS, 0.33)
    for workload in ("W1", "W2"):
        runs = results.of(workload, THREADS)
        if CHAIN in runs and (fastest := _fastest(runs, LIBRARIES)):
            title = f"{workload}: the fastest other library ({fastest.contestant}) / {CHAIN}"
            yield Goal(title, fastest.median / runs[CHAIN].median, 6.0, at_most=False)
    runs = results.of("W1", THREADS)
    libraries = [runs[name] for name in LIBRARIES if name in runs]
    if CHAIN in runs and libraries:
        leanest = min(libraries, key=lambda r: r.peak_mb)
        yield Goal(f"W1: peak memory / that of {leanest.contestant}", runs[CHAIN].peak_mb / leanest.peak_mb, 0.5)
    runs = results.of("W3", THREADS)
    if own := _fastest(runs, OWN):
        yield from _against_unit(results, "W3", own.contestant, 1.2)
        if fastest := _fastest(runs, LIBRARIES):
            yield Goal(
                f"W3: {own.contestant} / the fastest other library ({fastest.contestant})",
                own.median / fastest.median,
                1.0,
            )


def _population(results: Results) -> Iterable[Goal]:
    yield from _against_unit(results, "W4", PLAIN, 1.2)
    runs = results.of("W4", THREADS)
    if PLAIN in runs and RELU in runs:
        yield Goal("W4: fluctua / ReLU through autograd", runs[PLAIN].median / runs[RELU].median, 1.0)


def _initialisation(results: Results) -> Iterable[Goal]:
    yield from _against_unit(results, "initialise", INITIALISE, 3.0)


def _against_unit(results: Results, workload: str, contestant: str, limit: float) -> Iterable[Goal]:
    run, unit = results.of(workload, THREADS).get(contestant), results.unit(workload, THREADS)
    if run is not None and unit is not None and (ratio := results.ratio(run)) is not None:
        yield Goal(f"{workload}: {contestant} / {unit.contestant}", ratio.median, limit)


def _fastest(runs: dict[str, Run], names: Iterable[str]) -> Run | None:
    return min((runs[name] for name in names if name in runs), key=lambda r: r.median, default=None)
