"""From runs to the rows of a table: mean, standard deviation and 95 % interval over the seeds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fluctua.lab.results.paired import Paired, paired
from fluctua.lab.sweeps.study import Measure, Record, Setting, Study, Value


@dataclass(frozen=True)
class Summary:
    """One number of a study at one setting.

    Attributes:
        setting: the point of the grid.
        measure: name of the number.
        mean: over the finished runs that have it; NaN if there is none.
        std: sample standard deviation; NaN for a single run.
        n: number of finished runs that have it.
        low: lower end of the 95 % interval of the mean, by Student's t within the possible range; NaN for a single run.
        high: upper end.
        failed: number of failed runs of the setting.
        reference: a published number, None if none is known.
        source: its source.
        versus: the differences to the method that the study compares with; None for that method.
    """

    setting: Setting
    measure: str
    mean: float
    std: float
    n: int
    low: float
    high: float
    failed: int = 0
    reference: float | None = None
    source: str = ""
    versus: Paired | None = None

    @property
    def half(self) -> float:
        """Half of the interval, or its longer side if the possible range cuts it."""
        return max(self.high - self.mean, self.mean - self.low)


def summarise(study: Study, finished: Sequence[Record], failed: Sequence[Record]) -> list[Summary]:
    """All numbers of a study, measure by measure, in the order of its grid; settings without a run are left out.

    If the study chooses the values of some axes, only the chosen settings are included: see `chosen_settings`.
    """
    settings = chosen_settings(study, finished)
    return [summary for m in study.measures for summary in _of_measure(study, m, settings, finished, failed)]


def _of_measure(
    study: Study, measure: Measure, settings: Sequence[Setting], finished: Sequence[Record], failed: Sequence[Record]
) -> Iterator[Summary]:
    def by_seed(setting: Setting) -> dict[int, float]:
        here = (r for r in finished if r.setting == setting and measure.name in r.values)
        return {r.seed: r.values[measure.name] for r in here}

    for setting in settings:
        values = by_seed(setting)
        failures = sum(r.setting == setting for r in failed)
        if not values and not failures:
            continue
        mean, std, half = interval(list(values.values()))
        low, high = (float(np.clip(mean + side * half, *measure.within)) for side in (-1, 1))
        known = [r for r in study.references if r.measure == measure.name and r.applies_to(setting)]
        number, source = (known[0].value, known[0].source) if known else (None, "")
        twin = _twin(study, setting, settings)
        versus = None if twin is None else paired(values, by_seed(twin))
        yield Summary(setting, measure.name, mean, std, len(values), low, high, failures, number, source, versus)


def _twin(study: Study, setting: Setting, settings: Sequence[Setting]) -> Setting | None:
    """The same setting with the method that the study compares with, and the values chosen for it."""

    def others(of: Setting) -> dict[str, Value]:
        return {name: value for name, value in of.items() if name not in ("method", *study.chosen)}

    twins = (s for s in settings if s.get("method") == study.compared_to and others(s) == others(setting))
    found = next(twins, None)
    return None if found == setting else found


def chosen_settings(study: Study, finished: Sequence[Record]) -> list[Setting]:
    """The settings of the grid, each with the best values of the axes that the study chooses.

    The best has the largest mean of the study's criterion, a number on validation data, over the seeds that the study
    chooses by; without finished runs it is the first. The test data play no part.
    """
    if study.choose_by is not None:
        finished = [r for r in finished if r.seed < study.choose_by]
    best: dict[tuple[tuple[str, Value], ...], tuple[float, Setting]] = {}
    for setting in study.grid():
        if not study.chosen:
            best[tuple(setting.items())] = (0.0, setting)
            continue
        scores = [r.values[study.criterion] for r in finished if r.setting == setting]
        score = float(np.mean(scores)) if scores else -math.inf
        others = tuple((name, value) for name, value in setting.items() if name not in study.chosen)
        if others not in best or score > best[others][0]:
            best[others] = (score, setting)
    return [setting for _, setting in best.values()]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, sample standard deviation, and half the 95 % interval of the mean by Student's t.

    The last two are NaN for a single value, all three for none.
    """
    n, mean = len(values), float(np.mean(values)) if values else math.nan
    if n < 2:
        return mean, math.nan, math.nan
    std = float(np.std(values, ddof=1))
    return mean, std, student_quantile(n - 1) * std / math.sqrt(n)


def student_quantile(dof: int, level: float = 0.95) -> float:
    """The t with `P(|T| < t) = level` for Student's distribution with `dof` degrees of freedom.

    Raises:
        ValueError: no degree of freedom, or a level outside (0, 1).
    """
    if dof < 1 or not 0 < level < 1:
        raise ValueError(f"Student's t needs dof >= 1 and a level in (0, 1), got dof={dof} and level={level}")
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + level / 2))
