"""The table of a study: as CSV and JSON for programs, as Markdown and in a terminal for people."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple

import pandas as pd
from rich import box
from rich.table import Table

from fluctua.lab.results.aggregate import Summary
from fluctua.lab.sweeps.study import Measure, Study

NUMBERS = ("mean", "std", "n", "low", "high", "failed", "reference", "source")
VERSUS = ("difference", "difference_low", "difference_high", "pairs", "more", "less", "p")
"""The columns of the CSV after those of the setting and the measure: `low` and `high` are the ends of the 95 % interval
of the mean; for the differences to the method that the study compares with, see `Paired`."""


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
    # As objects, numbers, words and missing values may share an axis unchanged.
    table = pd.DataFrame(rows, columns=[*axes, "measure", *NUMBERS, *VERSUS], dtype=object)
    return table.replace([math.inf, -math.inf], math.nan).to_csv(index=False, lineterminator="\n")


def csv_as_json(text: str) -> str:
    """The rows of a table in CSV as a JSON list of objects; empty cells become null."""
    table = pd.read_csv(io.StringIO(text))
    return str(table.astype(object).where(table.notna(), None).to_json(orient="records", indent=2))


def as_printed(study: Study, summaries: Sequence[Summary], most: int = 3) -> Table:
    """The first numbers of a study for a terminal of 80 columns: mean ± half the 95 % interval, and published numbers.

    One row per setting, without the axes on which all settings agree.
    """
    settings = list({tuple(s.setting.items()): s.setting for s in summaries}.values())
    names = list(dict.fromkeys(name for setting in settings for name in setting))
    axes = [name for name in names if len({setting.get(name) for setting in settings}) > 1] or names[:1]
    measures = [m for m in study.measures if any(s.measure == m.name and s.n for s in summaries)][:most]
    found = {(tuple(s.setting.items()), s.measure): s for s in summaries}
    cited = any(s.reference is not None for s in summaries if s.measure in {m.name for m in measures})
    table = Table(
        box=box.SIMPLE_HEAD, padding=0, title=study.title, caption="± half the 95 % interval; more is in table.md"
    )
    for axis in axes:
        table.add_column(axis, overflow="fold")
    for measure in measures:
        table.add_column(measure.label, justify="right", no_wrap=False)
    if cited:
        table.add_column("published", justify="right")
    for setting in settings:
        here = [(m, found.get((tuple(setting.items()), m.name))) for m in measures]
        published = [
            format(m.factor * s.reference, m.spec) for m, s in here if s is not None and s.reference is not None
        ]
        table.add_row(
            *(_value(setting.get(axis)) for axis in axes),
            *(with_interval(m, s) for m, s in here),
            *([", ".join(published)] if cited else []),
        )
    return table


def with_interval(measure: Measure, s: Summary | None) -> str:
    """Mean ± half the interval, and the number of failed runs."""
    if s is None or not s.n:
        return "failed" if s is not None and s.failed else "-"
    mean, half = (format(measure.factor * value, measure.spec) for value in (s.mean, s.half))
    return (f"{mean} ± {half}" if s.n > 1 else mean) + (f" ({s.failed} failed)" if s.failed else "")


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
    """The printed cells of a row: mean, standard deviation, n, interval, failures, published number, differences."""

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
