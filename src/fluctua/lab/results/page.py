"""`fluctua report`: all results of a folder of stores as one HTML page that needs nothing but itself."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from fluctua.lab.durable import replacing
from fluctua.lab.sweeps.store import Store, StoreError


def report(folder: Path) -> Path:
    """Build `report.html` in a store, or in a folder of stores; returns its path.

    The page has the figures inside, fetches nothing, and is laid out for narrow screens too.

    Raises:
        StoreError: there is no store, or a file of one is damaged.
        OSError: the page cannot be written.
    """
    candidates = [folder, *sorted(folder.glob("*/"))]
    stores = [store for path in candidates if (store := Store(path)).description.is_file()]
    if not stores:
        raise StoreError(f"{folder} holds no results: give the folder that `fluctua reproduce` wrote to (--out)")
    path = folder / "report.html"
    with replacing(path) as file:
        file.write(_template().render(sections=map(_section, stores)).encode())
    return path


def _template() -> jinja2.Template:
    """`page.html` beside this file; whatever it is given is shown as text, never read as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


@dataclass(frozen=True)
class _Section:
    """What the page shows of a store.

    Attributes:
        id: its folder.
        facts: what it says of itself.
        figures: pictures in base64, by name.
        tables: of each measure, its columns and rows; None if there is no table yet.
        failures: name and error of each run that failed.
    """

    id: str
    facts: dict[str, Any]
    figures: dict[str, str]
    tables: dict[str, pd.DataFrame] | None
    failures: list[tuple[str, str | None]]


def _section(store: Store) -> _Section:
    root = store.root
    return _Section(
        id=root.name,
        facts={"name": root.name, "title": root.name, **store.describe()},
        figures={path.stem: base64.b64encode(path.read_bytes()).decode() for path in sorted(root.glob("*.png"))},
        tables=_tables(root / "table.csv"),
        failures=[(record.key, record.error) for record in store.all_failed()],
    )


def _tables(path: Path) -> dict[str, pd.DataFrame] | None:
    """The rows of each measure, as text, without the columns that are empty there."""
    if not path.is_file():
        return None
    rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8").map(_short)
    groups = rows.groupby("measure", sort=False)
    return {str(measure): of_it.drop(columns="measure").loc[:, lambda t: (t != "").any()] for measure, of_it in groups}


def _short(cell: str) -> str:
    """A number in four digits, anything else as it is."""
    try:
        return cell if cell.lstrip("-").isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell
