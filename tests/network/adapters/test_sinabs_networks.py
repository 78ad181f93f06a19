"""Networks of sinabs after one call, simulated by sinabs itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from shared.simulated_networks import Calls, assert_nothing_but_weights_changed, assert_wired_and_in_the_wanted_state
from shared.sinabs_networks import CASES, sl

FAR = 1e9  # a threshold out of reach


def free_potential(layer: Any, calls: Calls) -> Tensor:
    """Of a layer that gets the same currents and can neither spike nor be cut off, `[B, T, *N]`."""
    (current,) = calls
    if hasattr(layer, "rec_connect"):
        current = current + recurrent_current(layer, current)
    adaptive = isinstance(layer, sl.ALIF)
    if adaptive:  # whose records are those of the next step
        current = torch.cat([torch.zeros_like(current[:, :1]), current], 1)
        threshold, layer.b0 = layer.b0, torch.tensor(FAR)
    elif layer.spike_threshold is not None:
        threshold, layer.spike_threshold.data = layer.spike_threshold.data, torch.tensor(FAR)
    lowest, layer.min_v_mem = layer.min_v_mem, None
    layer.reset_states()
    layer.record_states = True
    feed_forward = sl.ALIF.forward if adaptive else sl.LIF.forward
    feed_forward(layer, current) if hasattr(layer, "rec_connect") else layer(current)
    potential: Tensor = layer.recordings["v_mem"]
    layer.min_v_mem = lowest
    if adaptive:
        layer.b0 = threshold
        return potential[:, :-1]
    if layer.spike_threshold is not None:
        layer.spike_threshold.data = threshold
    return potential


def recurrent_current(layer: Any, current: Tensor) -> Tensor:
    """What its spikes add at each step of a run with the current."""
    added = [torch.zeros_like(current[:, 0])]
    handle = layer.rec_connect.register_forward_hook(lambda module, args, output: added.append(output))
    layer.reset_states()
    layer(current)
    handle.remove()
    return torch.stack(added[:-1], 1)


def threshold(layer: Any) -> float:
    theta = layer.b0 if hasattr(layer, "b0") else layer.spike_threshold
    return 1.0 if theta is None else float(theta)


def states(model: nn.Module) -> Any:
    """States are buffers, but some layers keep None or a mere attribute in their place."""
    kept = ("v_mem", "i_syn", "recordings", "firing_rate")
    return {
        name: {key: getattr(module, key, "none") for key in kept}
        for name, module in model.named_modules()
        if isinstance(module, sl.StatefulLayer)
    }


@pytest.mark.parametrize("name", CASES)
def test_every_population_is_in_the_wanted_state(name: str) -> None:
    assert_wired_and_in_the_wanted_state(CASES[name], free_potential, threshold)


@pytest.mark.parametrize("name", CASES)
def test_nothing_but_the_weights_is_changed(name: str) -> None:
    assert_nothing_but_weights_changed(CASES[name], states)


def test_what_ran_before_does_not_matter() -> None:
    """Layers keep their state, and draw from it at random when the number of samples changes."""
    case = CASES["recurrent"]
    fresh, used = case.model(), case.model()
    case.run(used, case.batch()[:5])
    reports = [fluctua.initialize(model, case.batch(), seed=0) for model in (fresh, used)]
    assert str(reports[0]) == str(reports[1])
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), used.parameters(), strict=True))


def test_a_lower_limit_of_the_potential_is_reported() -> None:
    _, report = CASES["converted"].initialised()
    assert "cuts its potential off at min_v_mem = -1" in str(report)


def test_a_rate_in_hertz_is_met_where_the_step_is_known() -> None:
    case = CASES["deep"]
    model = case.model()
    report = fluctua.initialize(model, case.batch(), fluctua.Target(rate=15.0), dt=1e-3, seed=0)
    case.run(model, case.batch())
    rates = [layer.firing_rate.item() / 1e-3 for layer in model.modules() if isinstance(layer, sl.LIF)]
    assert rates == pytest.approx(8 * [15.0], rel=0.05)
    assert [p.rate for p in report] == pytest.approx(rates)
