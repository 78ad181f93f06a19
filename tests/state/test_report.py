"""Laws of the report: table, rows and figure say the same, and nothing of it is lost on the way to the reader."""

import dataclasses
import html
import io
import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.methods import Measured
from fluctua.neurons import LI, LIF
from fluctua.state import Report
from fluctua.state.facts import PathwayState, PlotData, PopulationState
from fluctua.state.style import as_html

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from rich.console import Console
from rich.text import Text

from shared.layout import assert_legible, texts

HEAD = ["population", "N", "mu_U", "sigma_U", "across", "xi", "Hz (theory)", "1st spike", "silent", "satur."]
SKETCH = PlotData(np.linspace(-3, 3, 81), np.full(80, 1 / 6), np.linspace(0, 20, 128), np.array([[0.01, 3]]), 40, 0.2)
STATE = PopulationState(
    name="3",
    n=128,
    threshold=1.0,
    mu_u=-0.0512,
    sigma_u=1.023,
    sigma_temporal=0.861,
    sigma_across=0.552,
    xi=1.034,
    rate=23.31,
    rate_predicted=10.94,
    latency=0.1024,
    silent=0.07,
    saturated=0.14,
    target_mu_u=0.0,
    target_sigma_u=1.0,
    gradient_norm=None,
    pathways=(
        PathwayState("2.weight", ("1",), 128, 0.01, 0.31),
        PathwayState("4.weight", ("3",), 9, 0.0, 0.2, None, 0.25),
    ),
    plot_data=SKETCH,
)


def state(**changes: Any) -> PopulationState:
    return dataclasses.replace(STATE, **changes)


SPIKING = ("threshold", "xi", "rate", "rate_predicted", "latency", "silent", "saturated")
READOUT = state(name="5", n=10, **dict.fromkeys(SPIKING))


def cells(report: Report) -> list[list[str]]:
    """Head and rows of the plain table, cut where two blanks or more stand."""
    head, line, *rows = str(report).removeprefix(f"{report.ran}\n").splitlines()
    assert set(line) == {"-"}
    return [re.split(r" {2,}", row.strip()) for row in (head, *rows[: len(report)])]


def rich_cells(report: Report) -> list[list[str]]:
    columns = report.__rich__().columns
    text = [[str(c.header).replace("\n", " "), *(Text.from_markup(str(x)).plain for x in c.cells)] for c in columns]
    return [list(row) for row in zip(*text, strict=True)]


def printed(report: Report, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- the table ---


def test_the_table_shows_what_the_state_holds() -> None:
    assert cells(Report((STATE, READOUT))) == [
        HEAD,
        ["3", "128", "-0.05/0.00", "1.02/1.00", "0.55", "1.03", "23.3 (10.9)", "102 ms", "7%", "14%"],
        ["5", "10", "-0.05/0.00", "1.02/1.00", "0.55", "-", "-", "-", "-", "-"],
    ]


def test_without_a_target_the_table_shows_what_is_alone() -> None:
    assert cells(Report((state(target_mu_u=None, target_sigma_u=None),)))[1][2:4] == ["-0.05", "1.02"]


def test_a_population_that_never_spikes_is_called_so() -> None:
    silent = state(sigma_u=0.0, xi=None, rate=0.0, rate_predicted=None, latency=None, silent=1.0)
    assert cells(Report((silent,)))[1][5:9] == ["-", "0.0 (-)", "never", "100%"]


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.001, "0.00"), (-0.0049, "0.00"), (-0.3, "-0.30"), (123.456, "123.46"), (2e28, "2e+28")]
)
def test_a_potential_is_shown_short_and_without_a_negative_zero(value: float, shown: str) -> None:
    (_, row) = cells(Report((state(mu_u=value, xi=value, sigma_across=value, target_mu_u=None),)))
    assert (row[2], row[4], row[5]) == (shown, shown, shown)


def test_gradient_norms_have_a_column_where_there_are_some() -> None:
    report = Report((state(gradient_norm=0.01234), READOUT))
    assert [row[-1] for row in cells(report)] == ["gradient", "0.0123", "-"]


REPORTS = {
    "targets": Report((STATE, READOUT), ("bias of 3 was set",), ("sigma_U misses its target: 3",)),
    "gradients": Report((state(gradient_norm=0.0), READOUT)),
    "silent": Report((state(silent=0.9), state(name="4", silent=0.51))),
    "brackets": Report((state(name="block[red]"),), ("[bold]3[/bold] was skipped",), ("look at block[0]",)),
    "NaN": Report((state(mu_u=np.nan, sigma_u=np.nan, xi=np.nan, rate_predicted=None),)),
    "what was run": Report((STATE, READOUT), ran="T = 100 steps x B = 1 sample, dt = 2 ms"),
    "feature maps": Report((state(silent_maps=0.25), READOUT)),
    "nothing": Report(()),
}


@pytest.mark.parametrize("name", REPORTS)
def test_rich_and_plain_table_hold_the_same_cells(name: str) -> None:
    assert rich_cells(REPORTS[name]) == cells(REPORTS[name])


@pytest.mark.parametrize("name", REPORTS)
def test_rich_and_plain_text_end_with_the_same_sentences(name: str) -> None:
    report = REPORTS[name]
    lines, shown = str(report).splitlines(), printed(report, 200)
    for note in report.notes:
        assert f"note: {note}" in lines
        assert note in shown
    for warning in report.warnings:
        assert f"warning: {warning}" in lines
        assert f"warning: {warning}" in shown


@pytest.mark.parametrize("name", ["encoder", "encoder.features.12.neuron", "a" * 60])
def test_a_terminal_of_80_columns_cuts_no_number(name: str) -> None:
    report = Report((state(name=name), READOUT))
    shown = printed(report, 80)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    first = next(line.split() for line in shown.splitlines() if "128" in line)
    assert first[1:] == ["128", "-0.05/0.00", "1.02/1.00", "0.55", "1.03", "23.3", "(10.9)", "102", "ms", "7%", "14%"]
    pieces = [line[:10].strip() for line in shown.splitlines()]
    assert name in "".join(pieces)  # folded, but whole


def test_the_columns_of_the_plain_table_line_up() -> None:
    head, line, *rows = str(Report((STATE, READOUT, state(name="a.long.name")))).splitlines()
    assert {len(head), *map(len, rows)} == {len(line)}


def test_the_head_says_how_the_network_was_run() -> None:
    model, x = sequence(40, 20, 5), batch()
    assert fluctua.inspect(model, x, window="arrival").ran == (
        "T = 100 steps x B = 8 samples, dt = 2 ms, window = arrival"
    )
    report = fluctua.initialize(model, x, method=Measured(balance=False, window="arrival"), seed=3)
    assert report.ran.endswith(", window = arrival, method = Measured(balance=False), seed = 3")
    report = fluctua.initialize(model, x, method="poisson", generator=torch.Generator())
    assert report.ran.endswith(", window = trial, method = Poisson(), seed = a generator's")


# --- as data ---


def test_rows_hold_every_number_of_every_population() -> None:
    report = Report((STATE, READOUT))
    for row, p in zip(report.rows(), report, strict=True):
        numbers = {f.name: getattr(p, f.name) for f in dataclasses.fields(p) if f.name not in ("pathways", "plot_data")}
        assert row == numbers | {
            "weights": "2.weight 4.weight",
            "weight_std": "0.31 0.2",
            "weight_share": "- 0.250",
        }


def test_a_population_is_found_by_its_name_or_number() -> None:
    report = Report((STATE, READOUT))
    assert report["5"] is report[1] is report[-1] is READOUT
    assert list(report) == [STATE, READOUT]
    assert report[:1] == (STATE,)
    with pytest.raises(KeyError, match="no population '4': there are 3, 5"):
        report["4"]


def test_as_json_it_holds_all_numbers_in_plain_python_and_null_for_what_is_none() -> None:
    report = Report((STATE, state(name="4", xi=np.nan, sigma_u=np.inf)), ("a",), ("b",), "T = 2 steps")
    read = json.loads(report.to_json())
    assert (read["ran"], read["notes"], read["warnings"]) == ("T = 2 steps", ["a"], ["b"])
    assert read["populations"][0]["sigma_u"] == STATE.sigma_u
    assert read["populations"][0]["pathways"][1]["share"] == 0.25
    assert (read["populations"][1]["xi"], read["populations"][1]["sigma_u"]) == (None, None)
    assert report.to_dict()["populations"][0] == read["populations"][0] | {
        "pathways": tuple(q | {"sources": tuple(q["sources"])} for q in read["populations"][0]["pathways"])
    }


def test_its_repr_is_one_line_that_counts_what_is_wrong() -> None:
    report = Report((STATE, state(name="4", latency=None), READOUT), (), ("4 is silent",), "T = 2 steps")
    assert repr(report) == "<Report of populations 3, 4, 5: 1 silent, 1 warning; T = 2 steps>"


@pytest.mark.parametrize("name", REPORTS)
def test_a_notebook_shows_the_cells_of_the_table_and_the_figure(name: str) -> None:
    shown = REPORTS[name]._repr_html_()
    plain = re.sub(r"<img[^>]*>", "", shown)
    found = [html.unescape(cell) for cell in re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", plain)]
    assert found == [cell for row in rich_cells(REPORTS[name]) for cell in row]
    assert all(html.escape(said) in plain for said in (*REPORTS[name].notes, *REPORTS[name].warnings))
    assert ("<img" in shown) is bool(REPORTS[name])


# --- the figure ---


def test_a_figure_draws_itself_in_a_notebook_that_has_not_loaded_pyplot() -> None:
    assert Report((STATE,)).plot()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_it_draws_all_populations_into_axes_of_the_users() -> None:
    from matplotlib.figure import Figure

    axis = (own := Figure()).subplots()
    assert Report((STATE, READOUT)).plot("in little", ax=axis) is own
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["3", "5"]
    assert axis.get_title() == "in little"
    assert_legible(own)


def sequence(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers += [nn.Linear(n_in, n_out), LIF()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), LI(0.2))


def batch(n: int = 40) -> Tensor:
    return (torch.rand(100, 8, n, generator=torch.Generator().manual_seed(0)) < 0.1).float()


def changed(model: nn.Module, name: str, value: float) -> nn.Module:
    with torch.no_grad():
        dict(model.named_parameters())[name].add_(value)
    return model


def silent() -> Report:
    model = sequence(40, 20, 20, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return fluctua.inspect(model, batch())


NETWORKS: dict[str, Callable[[], Report]] = {
    "initialised": lambda: fluctua.initialize(sequence(40, 64, 64, 5), batch(), seed=0),
    "untouched": lambda: fluctua.inspect(sequence(40, 20, 20, 5), batch()),
    "far from target": lambda: Report((state(target_mu_u=5.0), state(sigma_u=30.0), state(sigma_u=0.01))),
    "NaN alone": lambda: Report((state(mu_u=np.nan, sigma_u=np.nan, xi=np.nan, rate_predicted=None),)),
    "saturated": lambda: fluctua.inspect(changed(sequence(40, 20, 20, 5), "0.bias", 3.0), batch()),
    "silent": silent,
    "NaN": lambda: fluctua.inspect(changed(sequence(40, 20, 20, 5), "0.bias", float("nan")), batch()),
    "infinite": lambda: fluctua.inspect(changed(sequence(40, 20, 20, 5), "0.weight", 1e30), batch()),
    "one neuron": lambda: fluctua.inspect(sequence(40, 1, 1), batch()),
    "readout": lambda: fluctua.inspect(sequence(40, 5), batch()),
    "deep": lambda: fluctua.inspect(sequence(40, *[20] * 11, 5), batch()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_figure_of_any_network_is_legible(name: str) -> None:
    torch.manual_seed(0)
    report = NETWORKS[name]()
    figure = report.plot(f"A network: {name}")
    assert len(figure.axes) == 3 * min(len(report), 6)
    assert_legible(figure)
    written = [t.get_text() for t in texts(figure)]
    assert f"A network: {name}" in written
    assert "U (in the unit of the threshold)" in written
    if any(p.rate is not None for p in report):
        assert {"rate (Hz)", "time (s)"} <= set(written)


def test_a_picture_has_everything_where_the_figure_has_it() -> None:
    """Which is where matplotlib would put it, if it laid the figure out once more."""
    figure = NETWORKS["initialised"]().plot()
    engine = figure.get_layout_engine()
    before = [axis.get_position().bounds for axis in figure.axes]
    as_html(figure, "the state")
    assert [axis.get_position().bounds for axis in figure.axes] == before
    assert figure.get_layout_engine() is engine
    figure.draw_without_rendering()
    again = [axis.get_position().bounds for axis in figure.axes]
    assert np.allclose(again, before, atol=0.005)  # of the figure's size


def test_the_figure_writes_the_rates_that_the_report_holds() -> None:
    written = [t.get_text() for t in texts(Report((STATE, READOUT)).plot())]
    assert {"mean 23.3 Hz", "theory 10.9 Hz", "7% silent"} <= set(written)
    assert {"3\n(128 neurons)", "5\n(10 neurons)", "40 of 128"} <= set(written)


def test_the_figure_shows_threshold_and_target_wherever_they_are() -> None:
    for p in (STATE, state(mu_u=15.0, target_mu_u=None, target_sigma_u=None), state(threshold=7.0)):
        axis = Report((p,)).plot().axes[0]
        low, high = axis.get_xlim()
        lines = {str(line.get_label()): np.asarray(line.get_xdata(), float) for line in axis.lines}
        assert low < lines["threshold"][0] < high
        assert lines["threshold"][0] == p.threshold
        middle = p.mu_u if p.target_mu_u is None else p.target_mu_u
        assert low < middle - 2 * p.sigma_u
        assert middle + 2 * p.sigma_u < high


def test_the_figure_draws_a_target_to_its_peak_however_narrow() -> None:
    axis = Report((state(target_sigma_u=1e-4),)).plot().axes[0]
    (target,) = [line for line in axis.lines if line.get_label() == "target"]
    peak = 1 / (1e-4 * np.sqrt(2 * np.pi))
    assert np.asarray(target.get_ydata(), float).max() == pytest.approx(peak, rel=1e-3)
    assert axis.get_ylim()[1] > peak


def test_a_figure_needs_no_display_and_leaves_no_style_behind() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figure = Report((STATE,)).plot()
    assert dict(mpl.rcParams) == before
    assert getattr(figure, "number", None) is None  # pyplot does not know it, so it is freed with its last user
