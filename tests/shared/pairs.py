"""Fewer combinations of options than all: enough where each combination compiles its own code."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest


def pairs(**options: Sequence[Any]) -> list[dict[str, Any]]:
    """Combinations in which every two values of two options come together at least once, the same ones every time.

    The first combination has the first value of each option; each further one, of the whole product, has the most pairs
    that are still missing, and of equals it is the first.
    """
    rows = [
        dict(zip(options, row, strict=True)) for row in product(*(range(len(values)) for values in options.values()))
    ]
    missing = {pair for row in rows for pair in _of(row)}
    chosen = []
    while missing:
        best = max(rows, key=lambda row: sum(pair in missing for pair in _of(row)))
        missing.difference_update(_of(best))
        chosen.append({name: options[name][k] for name, k in best.items()})
    return chosen


def each(**options: Sequence[Any]) -> list[dict[str, Any]]:
    """Combinations in which every value of each option comes at least once: enough where pairs are tested elsewhere.

    As many as the option with the most values has. The others repeat, one further each time, so that they mix.
    """
    most = max(map(len, options.values()))
    return [
        {name: values[(k + k // len(values)) % len(values)] for name, values in options.items()} for k in range(most)
    ]


def mostly(names: Iterable[str], *slow: str) -> list[Any]:
    """Parameters of a test, of which some run with the slow tests: their like is among the others."""
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in names}
    assert marks.keys() >= {*slow}
    return [pytest.param(name, marks=mark, id=name) for name, mark in marks.items()]


def named(row: dict[str, Any]) -> str:
    """The name of a combination in a test."""
    words = (f"{name}" if value is True else str(value) for name, value in row.items() if value is not False)
    return "-".join(word.removeprefix("torch.") for word in words)


def _of(row: dict[str, int]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    return list(combinations(row.items(), 2))
