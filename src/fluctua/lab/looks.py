"""How lines are told apart in figures: each method has one colour, marker and line, whatever it is drawn beside."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fluctua.state.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

COLOURS = (ORANGE, PURPLE, BLUE, GREEN, SKY, RED, BLACK, GREY)
"""For lines that stand for no method, in turn."""
MARKERS = "osvD^XP*"

LOOKS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "measured": (BLUE, "o", "-"),
        "measured-full": (BLUE, "*", ":"),
        "measured-unbalanced": (SKY, "^", "-"),
        "measured-loud": (SKY, "P", ":"),
        "measured-share": (BLUE, "P", "--"),
        "measured-relay": (GREEN, "^", "--"),
        "poisson": (PURPLE, "s", "-"),
        "poisson-primed": (PURPLE, "P", "--"),
        "poisson-per-layer": (PURPLE, "^", ":"),
        "poisson-continuous": (PURPLE, "d", "-."),
        "poisson-share": (PURPLE, "*", "-."),
        "kaiming": (ORANGE, "o", "-"),
        "kaiming-relu": (ORANGE, ">", "--"),
        "kaiming-folded": (ORANGE, "<", ":"),
        "xavier": (GREY, "h", "-"),
        "torch": (BLACK, "X", "-"),
        "spikeinit": (GREEN, "D", "-"),
        "spikeinit-sim": (GREEN, "d", "--"),
        "ei-init": (GREEN, "p", "-"),
        "ding": (RED, "p", "-"),
        "micheli": (BLACK, "H", "--"),
        "lsuv": (RED, "v", "--"),
        "tdbn": (GREY, "*", "--"),
    }
)
"""Colour, marker and line of each method, by its name: the same in every figure."""


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Arguments for a line of each name: the look of a method, or the next free one for any other name."""
    free = ((colour, marker, "-") for _ in iter(int, 1) for colour, marker in zip(COLOURS, MARKERS, strict=True))
    chosen = {name: LOOKS.get(name) or next(free) for name in names}
    return {name: dict(zip(("color", "marker", "ls"), look, strict=True)) for name, look in chosen.items()}
