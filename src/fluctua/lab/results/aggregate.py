"""Runs -> rows of a table: mean, standard deviation and 95 % interval over the seeds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fluctua.lab.sweeps.study import Record, Setting, Study, Value


@dataclass(frozen=True)
class Summary:
    """One number of a study at one setting.

    Attributes:
        setting: the point of the grid.
        measure: name of the number.
        mean: over the finished runs that have it; NaN if there is none.
        std: sample standard deviation; NaN for a single run.
        n: finished runs that have it.
        half: half the width of the 95 % interval around the mean, by Student's t; NaN for a single run.
        failed: runs of the setting that failed.
        reference: a published number, None if none is known.
        source: where it is from.
    """

    setting: Setting
    measure: str
    mean: float
    std: float
    n: int
    half: float
    failed: int = 0
    reference: float | None = None
    source: str = ""


def summarise(study: Study, finished: Sequence[Record], failed: Sequence[Record]) -> list[Summary]:
    """All numbers of a study, measure by measure, in the order of its grid; settings without a run are left out.

    Where the study chooses the values of some axes, only the chosen settings are there: see `chosen_settings`.
    """
    settings = chosen_settings(study, finished)
    return [summary for m in study.measures for summary in _of_measure(study, m.name, settings, finished, failed)]


def _of_measure(
    study: Study, measure: str, settings: Sequence[Setting], finished: Sequence[Record], failed: Sequence[Record]
) -> Iterator[Summary]:
    for setting in settings:
        values = [r.values[measure] for r in finished if r.setting == setting and measure in r.values]
        failures = sum(r.setting == setting for r in failed)
        if not values and not failures:
            continue
        mean, std, half = interval(values)
        known = [r for r in study.references if r.measure == measure and r.applies_to(setting)]
        number, source = (known[0].value, known[0].source) if known else (None, "")
        yield Summary(setting, measure, mean, std, len(values), half, failures, number, source)


def chosen_settings(study: Study, finished: Sequence[Record]) -> list[Setting]:
    """The settings of the grid, each with the best values of the axes that the study chooses.

    The best is the one with the largest mean of the study's criterion, a number on validation data, over its seeds,
    or the first one where none has a finished run. The test data play no part.
    """
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

    The last two are NaN for a single value, all for none.
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
