"""`fluctua report`: all results in a folder of stores as one self-contained HTML page."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from fluctua.explain.monitor import FILE, Row, read_rows
from fluctua.explain.monitor_figure import ALT, cells_of, plot_rows
from fluctua.lab.durable import replacing
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.sweeps.study import Measure
from fluctua.lab.sweeps.sweep import in_words
from fluctua.state.style import as_laid_out, as_png

VALUES = {"mean", "std", "low", "high", "reference", "difference", "difference_low", "difference_high"}
"""Columns of `table.csv` in the unit of the measure."""
HEADS = {"reference": "published"}


def report(folder: Path) -> Path:
    """Build `report.html` in a store, or in a folder of stores and of runs that a monitor watched; returns its path.

    The page embeds the figures, fetches nothing, and works on narrow screens too.

    Raises:
        StoreError: there is no store, or a file of one is damaged.
        OSError: the page cannot be written.
    """
    candidates = [folder, *sorted(folder.glob("*/"))]
    stores = [store for path in candidates if (store := Store(path)).description.is_file()]
    runs = _runs(folder)
    if not stores and not runs:
        raise StoreError(f"{folder} holds no results: give a folder that `fluctua reproduce` wrote (--out)")
    path = folder / "report.html"
    with replacing(path) as file:
        file.write(_template().render(sections=[_section(store) for store in stores], runs=runs).encode())
    return path


def _template() -> jinja2.Template:
    """`page.html` beside this file; all values are escaped, never read as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


@dataclass(frozen=True)
class _Picture:
    """A picture in base64, with its alternative text."""

    data: str
    alt: str


@dataclass(frozen=True)
class _Table:
    """One measure of a study as printed: title, names of the columns, and rows."""

    title: str
    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class _Section:
    """The part of the page about one store.

    Attributes:
        id: its folder.
        facts: its description.
        figures: its pictures.
        common: axes of the grid with one value in all rows, in words.
        tables: one for each measure, without these; None if there is no table yet.
        failures: name and error of each failed run.
    """

    id: str
    facts: dict[str, Any]
    figures: list[_Picture]
    common: str
    tables: list[_Table] | None
    failures: list[tuple[str, str | None]]


@dataclass(frozen=True)
class _Run:
    """A training seen by a monitor: the folder of its rows, the picture, and the last state as a table."""

    name: str
    figure: _Picture
    table: _Table


def _section(store: Store) -> _Section:
    root, facts = store.root, {"name": store.root.name, "title": store.root.name, **store.describe()}
    measures = {known["name"]: Measure(**known) for known in facts.get("measures", ())}
    common, tables = _tables(root / "table.csv", measures)
    seen = "; ".join(table.title for table in tables or [])
    return _Section(
        id=root.name,
        facts=facts,
        figures=[_picture(path.read_bytes(), f"{facts['title']}: {seen}") for path in sorted(root.glob("*.png"))],
        common=common,
        tables=tables,
        failures=[(record.key, record.error) for record in store.all_failed()],
    )


def _picture(png: bytes, alt: str) -> _Picture:
    return _Picture(base64.b64encode(png).decode(), alt)


def _tables(path: Path, measures: Mapping[str, Measure]) -> tuple[str, list[_Table] | None]:
    """What all rows have in common, and the rows of each measure without it; unknown measures are printed unchanged."""
    if not path.is_file():
        return "", None
    rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    axes = list(rows.columns[: list(rows.columns).index("measure")])
    common = {axis: rows[axis].iloc[0] for axis in axes if rows[axis].nunique() == 1}
    if len(common) == len(axes):  # a single setting, which then names the row
        common = {}
    groups = rows.drop(columns=list(common)).groupby("measure", sort=False)
    tables = [_table(measures.get(str(name), Measure(str(name), str(name), spec=".4g")), part) for name, part in groups]
    return in_words({axis: value for axis, value in common.items() if value}), tables


def _table(measure: Measure, rows: pd.DataFrame) -> _Table:
    cells = rows.drop(columns="measure").apply(lambda column: column.map(partial(_printed, measure, str(column.name))))
    cells = cells.loc[:, lambda t: (t != "").any()]
    if {"low", "high"} <= set(cells):
        low, high = (cells.pop(name) for name in ("low", "high"))
        both = [f"{a} to {b}" if a else "" for a, b in zip(low, high, strict=True)]
        cells.insert(cells.columns.get_loc("n") + 1, "95 % interval", both)
    title = f"{measure.label[0].upper()}{measure.label[1:]}"
    return _Table(title, [HEADS.get(name, name) for name in cells], cells.to_numpy().tolist())


def _printed(measure: Measure, column: str, cell: str) -> str:
    """A cell as in the tables: values in the unit of the measure, methods by their printed names."""
    if column == "method":
        return LABELS.get(cell, cell)
    if column == "failed":
        return cell.removeprefix("0")
    try:
        number = float(cell)
    except ValueError:
        return cell
    if column in VALUES:
        return format(measure.factor * number, measure.spec)
    return cell if cell.lstrip("-").isdigit() else f"{number:.4g}"


def _runs(folder: Path) -> list[_Run]:
    """The runs that monitors recorded in a folder and its subfolders."""
    return [_run(path.parent, rows) for path in sorted(folder.rglob(FILE)) if (rows := read_rows(path))]


def _run(folder: Path, rows: list[Row]) -> _Run:
    heads, *cells = cells_of(rows)
    figure = plot_rows(rows)
    with as_laid_out(figure):
        picture = _picture(as_png(figure), ALT)
    return _Run(folder.name, picture, _Table("Last state", heads, cells))
