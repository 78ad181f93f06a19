"""The picture of docs/design.md: the floors of the package, and which imports which, from the sources themselves.

    python docs/scripts/house.py

An arrow that a longer way already implies is left out. `tests/test_house.py` tells when the picture is out of date.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))
from shared.imports import FACE, FLOORS, NEEDED, SOURCES, imports, top  # noqa: E402

PICTURE = ROOT / "docs" / "img" / "house.svg"

CAPTIONS = {
    "theory": "kernels, moments, weight laws, rates",
    "files": "files from outside",
    "hdf5": "what HDF5 may hold",
    "simd": "vector code for numba",
    "spikes": "sparse spikes as bits",
    "timeloop": "the loops over time",
    "neurons": "LIF, adaptive, exc/inh, LI",
    "layers": "recurrence, Dale's law, blocks",
    "network": "a model on a batch: run, trace, replay",
    "state": "what a network does: report, figure",
    "methods": "how weights are found",
    "homeostasis": "towards wanted rates",
    "hardware": "weights on a grid",
    "rescaling": "keeps the pattern",
    "explain": "what goes wrong",
    "fusion": "a model made fast",
    "lab": "data, training, networks, studies, command line",
}

WIDTH, MARGIN, ROW, HEIGHT, GAP = 920, 70, 96, 58, 34
INK, GREY, ARROW = "#222222", "#555555", "#0072B2"
FILLS = {"library": "#DCEBF5", "lab": "#FBE9C6"}
"""Blue and orange of Okabe & Ito, made pale: to be told apart by all."""


@dataclass(frozen=True)
class Box:
    """A package in the picture: its name and where its upper left corner is."""

    name: str
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        """Between its left and its right side."""
        return self.x + self.width / 2


def packages() -> list[str]:
    """All that there are, by floor from the top."""
    return sorted(
        (name for name in FLOORS if (SOURCES / name).is_dir() or (SOURCES / f"{name}.py").is_file()),
        key=lambda name: -FLOORS[name],
    )


def arrows() -> dict[str, set[str]]:
    """Of each package those that it imports, without what a longer way implies."""
    edges: dict[str, set[str]] = {name: set() for name in packages()}
    for found in imports():
        if found.target is not None and not {found.file, found.target} & FACE:
            above, below = top(found.file), top(found.target)
            if above != below and FLOORS[above] >= FLOORS[below]:
                edges[above].add(below)
    return {
        name: {below for below in targets if not any(below in _reach(edges, via) for via in targets - {below})}
        for name, targets in edges.items()
    }


def from_outside(package: str) -> list[str]:
    """Of the three packages that the library needs, those that this one imports."""
    return [
        name
        for name in NEEDED
        if any(found.package == name and top(found.file) == package and found.place == "module" for found in imports())
    ]


def boxes() -> dict[str, Box]:
    """Each package in its place."""
    placed = {}
    for row, (_, group) in enumerate(groupby(packages(), FLOORS.__getitem__)):
        names = list(group)
        room = (WIDTH - MARGIN) / len(names)
        for column, name in enumerate(names):
            width = min(room - GAP, 330.0)
            x = MARGIN + column * room + (room - width) / 2
            placed[name] = Box(name, x, 14 + row * ROW, width)
    return placed


def drawn() -> str:
    """The picture."""
    placed = boxes()
    bottom = max(box.y for box in placed.values()) + HEIGHT + 14
    parts = [*_bands(placed), *_lines(placed, arrows()), *(line for box in placed.values() for line in _box(box))]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:g}" font-family="sans-serif">',
            "<title>The floors of fluctua: imports run downwards only</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{ARROW}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{bottom:g}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _reach(edges: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _bands(placed: Mapping[str, Box]) -> Iterator[str]:
    for floor, y in sorted({(FLOORS[name], box.y) for name, box in placed.items()}):
        yield f'<text x="14" y="{y + HEIGHT / 2 + 5:g}" font-size="15" fill="{GREY}">{floor}</text>'
        yield f'<line x1="36" x2="{WIDTH - 6}" y1="{y + HEIGHT + 19:g}" y2="{y + HEIGHT + 19:g}" stroke="#E4E4E4"/>'


def _lines(placed: Mapping[str, Box], edges: Mapping[str, set[str]]) -> Iterator[str]:
    for name, targets in edges.items():
        above = placed[name]
        for below in sorted((placed[target] for target in targets), key=lambda box: box.name):
            if above.y == below.y:
                leftwards = below.x < above.x
                x1, x2 = (above.x, below.x + below.width) if leftwards else (above.x + above.width, below.x)
                y1 = y2 = above.y + HEIGHT / 2
            else:
                x1, y1, y2 = above.middle, above.y + HEIGHT, below.y
                x2 = min(max(x1, below.x + 24), below.x + below.width - 24)
            yield (
                f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{ARROW}" stroke-width="1.8" '
                'marker-end="url(#tip)"/>'
            )


def _box(box: Box) -> Iterator[str]:
    fill = FILLS["lab" if box.name == "lab" else "library"]
    caption = CAPTIONS[box.name]
    outside = ", ".join({"numpy": "NumPy"}.get(name, name) for name in from_outside(box.name))
    yield (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="{INK}" stroke-width="0.8"/>'
    )
    for text, dy, size, colour, weight in (
        (box.name, 19, 16, INK, "bold"),
        (caption, 36, 13, INK, "normal"),
        (f"imports {outside}" + (" and the extras" if box.name == "lab" else ""), 51, 11.5, GREY, "normal"),
    ):
        yield (
            f'<text x="{box.middle:g}" y="{box.y + dy:g}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
            f'text-anchor="middle">{escape(text)}</text>'
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=PICTURE)
    path = parser.parse_args().out
    path.write_text(drawn())
    print(path)
