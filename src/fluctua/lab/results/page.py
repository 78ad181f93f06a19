"""`fluctua report`: all results of a folder of stores as one HTML page that needs nothing but itself."""

import base64
import csv
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.training.folder import replacing

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1, h2, h3 { line-height: 1.2; }
nav a { display: inline-block; margin: 0 1rem .5rem 0; }
img { width: 100%; max-width: 56rem; height: auto; background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th { position: sticky; top: 0; }
td.source { white-space: normal; text-align: left; min-width: 14rem; }
summary { cursor: pointer; padding: .4rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
"""


def report(folder: Path) -> Path:
    """Build `report.html` in a store, or in a folder of stores; returns its path.

    The page has the figures inside, fetches nothing, and is laid out for narrow screens too.

    Raises:
        StoreError: there is no store, or a file of one is damaged.
        OSError: the page cannot be written.
    """
    stores = _stores(folder)
    if not stores:
        raise StoreError(f"{folder} holds no results: give the folder that `fluctua reproduce` wrote to (--out)")
    sections = [_section(store) for store in stores]
    links = "".join(
        f'<a href="#{_text(store.root.name)}">{_text(store.describe().get("name", store.root.name))}</a>'
        for store in stores
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>fluctua: results</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Results</h1>\n"
        f"<nav>{links}</nav>\n{''.join(sections)}</body>\n</html>\n"
    )
    path = folder / "report.html"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _stores(folder: Path) -> list[Store]:
    candidates = [folder, *sorted(folder.glob("*/"))]
    return [store for path in candidates if (store := Store(path)).description.is_file()]


def _section(store: Store) -> str:
    facts = store.describe()
    parts = [
        f'<section id="{_text(store.root.name)}">\n<h2>{_text(facts.get("title", store.root.name))}</h2>',
        f"<p>{_text(facts.get('about', ''))}</p>",
        *_figures(store.root),
        *_tables(store.root / "table.csv"),
        *_failures(store),
        f"<details><summary>Settings</summary><pre>{_text(facts.get('settings', ''))}</pre></details>\n</section>\n",
    ]
    return "\n".join(parts)


def _figures(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("*.png")):
        data = base64.b64encode(path.read_bytes()).decode()
        yield f'<p><img alt="{_text(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _tables(path: Path) -> Iterator[str]:
    """The rows of each measure in a table of their own, folded up but for the first."""
    if not path.is_file():
        yield "<p>The sweep is not finished, there is no table yet.</p>"
        return
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    for i, measure in enumerate(dict.fromkeys(row["measure"] for row in rows)):
        opened = " open" if i == 0 else ""
        of_it = [
            {key: value for key, value in row.items() if key != "measure"} for row in rows if row["measure"] == measure
        ]
        yield f"<details{opened}><summary>{_text(measure)}</summary>\n{_table(of_it)}</details>"


def _table(rows: Sequence[dict[str, str]]) -> str:
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    lines = ["".join(f"<th>{_text(head)}</th>" for head in heads)]
    lines += ["".join(f'<td class="{_text(head)}">{_text(_short(row[head]))}</td>' for head in heads) for row in rows]
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table></div>\n"


def _failures(store: Store) -> Iterator[str]:
    if failures := store.all_failed():
        lines = "".join(f"<li>{_text(r.key)}: {_text(r.error)}</li>\n" for r in failures)
        yield f"<details><summary>{len(failures)} failed runs</summary>\n<ul>\n{lines}</ul></details>"


def _short(cell: str) -> str:
    """A number in four digits, anything else as it is."""
    try:
        return cell if cell.lstrip("-").isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell


def _text(value: object) -> str:
    return html.escape(str(value))
