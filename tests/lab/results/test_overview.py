"""Laws of the picture of the start page: it shows what the neurons do, marks what it cuts, and is legible."""

import numpy as np
import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

import fluctua
from fluctua.lab.networks import LABELS, bring_up, feed_forward
from fluctua.lab.results.figures import looks_of
from fluctua.lab.results.overview import LOWEST, Traces, overview_figure, traces_of
from fluctua.theory import Target
from shared.layout import assert_legible
from shared.spikes import spikes

HISTORY = [{"epoch": k + 1.0, "val_accuracy": 1 - 0.5**k} for k in range(4)]


@pytest.fixture(scope="module")
def states() -> dict[str, list[Traces]]:
    found = {}
    for method in ("kaiming", "measured"):
        model = feed_forward(20, 10, width=24, depth=2, dt=2e-3, duration=0.4)
        bring_up(model, x := spikes(200, 20, 20), method, target=Target(), seed=0)
        found[LABELS[method]] = traces_of(model, x)
    return found


def test_the_traces_are_those_of_the_network_and_spike_where_they_cross(states: dict[str, list[Traces]]) -> None:
    model = feed_forward(20, 10, width=24, depth=2, dt=2e-3, duration=0.4)
    bring_up(model, x := spikes(200, 20, 20), "measured", target=Target(), seed=0)
    report = fluctua.inspect(model, x, window="arrival")
    for traces, p in zip(states[LABELS["measured"]], report, strict=False):
        assert (traces.sigma_u, traces.rate, traces.silent) == pytest.approx((p.sigma_u, p.rate, p.silent))
        np.testing.assert_array_equal(traces.spikes > 0, traces.potential >= 1)
        assert not traces.potential[1:][traces.spikes[:-1] > 0].any(), "a spike resets the potential"
        assert traces.spikes.any()
    with torch.no_grad():
        np.testing.assert_array_equal(states[LABELS["measured"]][0].spikes, model[1](model[0](x))[:, 0, :3].numpy())


def test_the_picture_is_legible_and_has_every_layer_and_curve(states: dict[str, list[Traces]]) -> None:
    histories = {LABELS[name]: HISTORY for name in ("kaiming", "poisson", "measured")}
    figure = overview_figure(states, histories, 0.1)
    assert_legible(figure)
    *panels, curves = figure.axes
    assert len(panels) == 4
    assert {line.get_label() for line in curves.lines} == {*histories, "chance"}


def test_what_is_cut_is_marked(states: dict[str, list[Traces]]) -> None:
    label = LABELS["measured"]
    for depth_of_dip, marks in ((LOWEST - 1, 1), (LOWEST + 0.5, 0)):
        potential = np.zeros((50, 1), np.float32)
        potential[20] = depth_of_dip
        traces = Traces(potential, np.zeros_like(potential), 2e-3, 1.0, 5.0, 0.0)
        (panel, _) = overview_figure({label: [traces]}, {label: HISTORY}, 0.1).axes
        assert sum(line.get_marker() == "v" for line in panel.lines) == marks


def test_a_method_has_one_look_in_all_figures() -> None:
    looks = looks_of(LABELS.values())
    assert len({(look["color"], look["marker"], look["ls"]) for look in looks.values()}) == len(LABELS)
    assert looks_of([LABELS["measured"]]) == {LABELS["measured"]: looks[LABELS["measured"]]}
