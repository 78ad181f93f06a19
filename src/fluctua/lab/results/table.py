"""The table of a study, as CSV for programs and as Markdown for people."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from fluctua.lab.results.aggregate import Summary
from fluctua.lab.sweeps.study import Measure, Study

NUMBERS = ("mean", "std", "n", "low", "high", "failed", "reference", "source")
"""The columns of the CSV behind those of the setting and the measure; `low` and `high` end the 95 % interval."""


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
            "low": s.mean - s.half,
            "high": s.mean + s.half,
            "failed": s.failed,
            "reference": s.reference,
            "source": s.source,
        }
        for s in summaries
    ]
    # Without a type of their own, numbers, words and nothing may share an axis and stay as they are.
    table = pd.DataFrame(rows, columns=[*axes, "measure", *NUMBERS], dtype=object)
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
    """What is printed of a row: mean, standard deviation, n, interval, failures, and a published number."""

    def printed(value: float | None) -> str:
        known = value is not None and math.isfinite(value)
        return format(measure.factor * value, measure.spec) if known and value is not None else ""

    interval = f"{printed(s.mean - s.half)} to {printed(s.mean + s.half)}" if s.n > 1 else ""
    return [printed(s.mean), printed(s.std), str(s.n), interval, str(s.failed or ""), printed(s.reference)]


HEADS = ("mean", "std", "n", "95 % interval", "failed", "published")


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
