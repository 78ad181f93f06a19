"""Laws of the printed table and of JSON: every setting and number is there, on 80 columns."""

import io
import json

import pytest

pytest.importorskip("rich")
pytest.importorskip("pandas")

from rich.console import Console

from fluctua.lab.results.aggregate import Summary
from fluctua.lab.results.table import as_csv, as_printed, csv_as_json
from shared.toy_study import Toy

NONE = float("nan")
ROWS = [
    Summary({"method": "a", "x": 0}, "score", 0.5, 0.1, 3, 0.3, 0.7),
    Summary({"method": "a", "x": 1}, "score", 1.25, NONE, 1, NONE, NONE, reference=1.75, source="a journal"),
    Summary({"method": "a", "x": 2}, "score", NONE, NONE, 0, NONE, NONE, failed=3),
]


def test_every_setting_is_printed_with_its_interval_failures_and_published_number() -> None:
    console = Console(file=(text := io.StringIO()), width=80)
    console.print(as_printed(Toy(), ROWS))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert ["0", "50.0", "±", "20.0"] in lines  # "method" is the same in all rows and left out
    assert ["1", "125.0", "175.0"] in lines
    assert ["2", "failed"] in lines
    assert max(map(len, text.getvalue().splitlines())) <= 80


def test_json_has_the_numbers_of_the_csv_and_null_for_what_is_empty() -> None:
    first, second, third = json.loads(csv_as_json(as_csv(ROWS)))
    assert (first["mean"], first["n"], first["reference"]) == (0.5, 3, None)
    assert (second["reference"], second["low"]) == (1.75, None)
    assert (third["mean"], third["failed"]) == (None, 3)
