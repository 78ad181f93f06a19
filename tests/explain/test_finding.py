"""Laws of what a diagnosis says: every finding is shown, the serious ones are told apart."""

import html
import json
import re
from pathlib import Path

import pytest

from fluctua import Diagnosis
from fluctua.explain.finding import KINDS, Finding

FOUND = Diagnosis(
    (
        Finding("silent", "a<b>", "no neuron of a<b> fires", "fluctua.rescale(model, batch)"),
        Finding("frozen", "", "two weights are frozen", "model.requires_grad_(True)", serious=False),
    )
)


def test_it_is_a_sequence_that_says_each_finding_with_its_line() -> None:
    assert (len(FOUND), FOUND[1].kind, [f.kind for f in FOUND]) == (2, "frozen", ["silent", "frozen"])
    assert str(FOUND).splitlines() == [
        "1. silent (a<b>): no neuron of a<b> fires",
        "   fluctua.rescale(model, batch)",
        "2. frozen (not serious): two weights are frozen",
        "   model.requires_grad_(True)",
    ]
    assert repr(FOUND) == "<Diagnosis: silent, frozen>"
    assert FOUND.serious == FOUND.findings[:1]
    assert FOUND.rows()[0]["where"] == "a<b>"
    assert json.loads(FOUND.to_json()) == FOUND.to_dict() == {"findings": FOUND.rows(), "report": None}
    shown = FOUND._repr_html_()
    assert all(html.escape(f.message) in shown and html.escape(f.remedy) in shown for f in FOUND)
    assert "a<b>" not in shown


def test_where_nothing_is_wrong_it_says_so() -> None:
    empty = Diagnosis(())
    assert (bool(empty), str(empty), repr(empty)) == (False, "nothing found", "<Diagnosis: nothing found>")
    assert "nothing found" in empty._repr_html_()


def test_a_kind_that_is_not_documented_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "why-does-it-not-learn.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(KINDS)
    with pytest.raises(ValueError, match="unknown kind 'dead' of a finding: choose one of input, values, axes"):
        Finding("dead", "", "", "")
