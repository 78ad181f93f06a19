"""Facts of a neuron from its step: the closed forms of fluctua's own neurons, and impulse responses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import specs_of
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron
from fluctua.network.linear import linear_neuron
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF, from_step, spike
from fluctua.timeloop.contract import Dynamics

TAUS = torch.tensor([10e-3, 20e-3, 35e-3])


def dynamics_of(module: Any) -> Dynamics:
    found: Dynamics = module.dynamics()
    return found


def derived(module: Any, trial: int = 100) -> Neuron:
    dynamics = dynamics_of(module)
    timing = Timing(module.dt, trial)
    return linear_neuron(dynamics, [0.0] * dynamics.states, timing, getattr(module, "threshold", None))


CLOSED: dict[str, Callable[[], nn.Module]] = {
    "LIF": lambda: LIF(TAUS, 5e-3),
    "LIF, delta synapse, soft reset": lambda: LIF(TAUS, None, reset="subtract", differentiable_reset=True),
    "ALIF": lambda: AdaptiveLIF(TAUS, 5e-3),
    "LI": lambda: LI(TAUS),
    "ExcInhLIF": lambda: ExcInhLIF(TAUS, 5e-3, 15e-3),
}


@pytest.mark.parametrize("name", CLOSED)
def test_the_step_has_the_kernel_of_the_closed_form(name: str) -> None:
    module = CLOSED[name]().double()  # so that rounded time constants do not blur what is compared
    mine, closed = derived(module), specs_of(module)[""].neuron
    assert (mine.threshold, mine.rest) == (closed.threshold, closed.rest)
    for kernel, truth in zip(mine.kernels, closed.kernels, strict=True):
        np.testing.assert_allclose(kernel.response(80), truth.response(80), rtol=1e-7, atol=1e-12)
        for sums in ("eps_bar", "eps_hat", "lag_one"):
            np.testing.assert_allclose(getattr(kernel, sums), getattr(truth, sums), rtol=1e-7)
        np.testing.assert_allclose(kernel.over_trial(60).eps_hat, truth.over_trial(60).eps_hat, rtol=1e-7)


def leaky(leak: float, rest: float = 0.0, gain: float = 1.0) -> Any:
    def step(x: Tensor, state: tuple[Tensor, ...], c: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        u = c["leak"] * state[0] + (1 - c["leak"]) * c["rest"] + c["gain"] * x
        out = spike(u - c["theta"])
        return out, (u * (1 - out.detach()),)

    constants = {"leak": leak, "rest": rest, "gain": gain, "theta": 1.0}
    return from_step(step, constants=constants, threshold="theta", rest=(rest,))


def facts(module: Any, trial: int = 100) -> Neuron:
    rest, threshold = module.facts()
    return linear_neuron(module.dynamics(), rest, Timing(module.dt, trial), threshold)


def test_a_potential_that_feels_its_input_at_once() -> None:
    neuron = facts(leaky(0.5, gain=2.0))
    np.testing.assert_allclose(neuron.kernel.response(5), 2.0 * 0.5 ** np.arange(5), rtol=1e-6)
    assert float(neuron.kernel.eps_bar) == pytest.approx(4 * 1e-3, rel=1e-6)
    assert float(neuron.kernel.eps_hat) == pytest.approx(4 / 0.75 * 1e-3, rel=1e-6)
    assert float(neuron.kernel.lag_one) == pytest.approx(0.5, rel=1e-6)
    assert neuron.note is None


def test_rest_is_where_the_neuron_comes_to_without_input() -> None:
    neuron = facts(leaky(0.8, rest=-0.3))
    assert neuron.threshold == 1.0
    assert neuron.rest == pytest.approx(-0.3, rel=1e-6)


def test_an_integrator_has_the_moments_of_the_trial() -> None:
    neuron = facts(leaky(1.0), trial=50)
    assert neuron.kernel.steps == 50
    assert neuron.note is not None
    assert "never settles" in neuron.note


@pytest.mark.parametrize(
    ("build", "message"), [(lambda: leaky(1.2), "unstable"), (lambda: leaky(0.5, gain=0.0), "does not depend")]
)
def test_what_has_no_kernel_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UnsupportedNeuronError, match=message):
        facts(build())
