"""The table of a study, as CSV for programs and as Markdown for people."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple

import pandas as pd

from fluctua.lab.results.aggregate import Summary
from fluctua.lab.sweeps.study import Measure, Study

NUMBERS = ("mean", "std", "n", "low", "high", "failed", "reference", "source")
VERSUS = ("difference", "difference_low", "difference_high", "pairs", "more", "less", "p")
"""The columns of the CSV behind those of the setting and the measure: of the mean, `low` and `high` end its 95 %
interval; of the differences to the method that the study compares with, see `Paired`."""


def as_csv(summaries: Sequence[Summary]) -> str:
    """One line per setting and measure, in SI units, every digit; unknown numbers are left empty."""
    axes = list(dict.fromkeys(name for s in summaries for name in s.setting))
    rows = [
        {
            **s.setting,
            "measure": s.measure,
            "mean": s.mean,
            "std": s.std,
            "n": s.n,
            "low": s.low,
            "high": s.high,
            "failed": s.failed,
            "reference": s.reference,
            "source": s.source,
            **dict(zip(VERSUS, () if s.versus is None else astuple(s.versus), strict=False)),
        }
        for s in summaries
    ]
    # Without a type of their own, numbers, words and nothing may share an axis and stay as they are.
    table = pd.DataFrame(rows, columns=[*axes, "measure", *NUMBERS, *VERSUS], dtype=object)
    return table.replace([math.inf, -math.inf], math.nan).to_csv(index=False, lineterminator="\n")


def as_markdown(study: Study, summaries: Sequence[Summary]) -> str:
    """A heading, what the study asks, a table per measure, and the sources of the published numbers."""
    parts = [f"# {study.title}", study.about]
    for measure in study.measures:
        if of_it := [s for s in summaries if s.measure == measure.name]:
            parts.append(f"## {measure.label[0].upper()}{measure.label[1:]}\n\n" + "\n".join(_table(measure, of_it)))
    if sources := list(dict.fromkeys(s.source for s in summaries if s.source)):
        parts.append("\n".join(f"Published: {source}." for source in sources))
    return "\n\n".join(parts) + "\n"


def cells(measure: Measure, s: Summary) -> list[str]:
    """What is printed of a row: mean, standard deviation, n, interval, failures, a published number, differences."""

    def printed(value: float | None) -> str:
        known = value is not None and math.isfinite(value)
        return format(measure.factor * value, measure.spec) if known and value is not None else ""

    def between(low: float, high: float) -> str:
        return f"{printed(low)} to {printed(high)}" if math.isfinite(low + high) else ""

    d = s.versus
    difference = [] if d is None else [printed(d.mean), between(d.low, d.high), f"{d.more}:{d.less}", f"{d.p:.3g}"]
    numbers = [printed(s.mean), printed(s.std), str(s.n), between(s.low, s.high), str(s.failed or "")]
    return [*numbers, printed(s.reference), *(difference or [""] * 4)]


HEADS = ("mean", "std", "n", "95 % interval", "failed", "published", "difference", "its interval", "ahead", "p")


def _table(measure: Measure, summaries: Sequence[Summary]) -> Iterator[str]:
    axes = list(dict.fromkeys(name for s in summaries for name in s.setting))
    rows = [[*(_value(s.setting.get(name)) for name in axes), *cells(measure, s)] for s in summaries]
    heads = [*axes, *HEADS]
    kept = [i for i in range(len(heads)) if i < len(axes) or any(row[i] for row in rows)]  # no empty columns
    yield "| " + " | ".join(heads[i] for i in kept) + " |"
    yield "|" + "---|" * len(kept)
    for row in rows:
        yield "| " + " | ".join(row[i] for i in kept) + " |"


def _value(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
