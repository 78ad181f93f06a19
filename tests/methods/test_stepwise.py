"""Networks that run step by step come into their regime by the same call as others, recurrence by hand included."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Target
from fluctua.layers import OverTime
from fluctua.network.adapters.registry import KnownNeurons, over_time
from fluctua.network.facts import Population
from fluctua.network.network import groups_of
from fluctua.network.replay import Replay
from shared.step_networks import (
    NEURONS,
    WIDTH,
    KeepingNeuron,
    Looping,
    StepNeuron,
    free_potential_of,
    linear,
    stack,
    trains,
)
from shared.tracing import trace

KNOWN = KnownNeurons(described=NEURONS)


def run(model: nn.Module, x: Tensor) -> Any:
    return over_time(model, x, KNOWN, 0)(model, x)


def currents(model: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """What every neuron is really called with, step by step."""
    found: dict[str, list[Tensor]] = {}
    forward = over_time(model, x, KNOWN, 0)
    handles = [
        module.register_forward_pre_hook(lambda m, args, name=name: found.setdefault(name, []).append(args[0].detach()))
        for name, module in model.named_modules()
        if isinstance(module, StepNeuron)
    ]
    with torch.no_grad():
        forward(model, x)
    for handle in handles:
        handle.remove()
    return found


def moments(model: nn.Module, x: Tensor) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the free potential, simulated by the neurons' own equations."""
    neurons = dict(model.named_modules())
    potentials = {name: free_potential_of(neurons[name], steps) for name, steps in currents(model, x).items()}
    return {name: (float(u.mean()), float(u.std())) for name, u in potentials.items()}


CASES: dict[str, Callable[[], nn.Module]] = {
    "looped by fluctua": lambda: stack(4),
    "loops by itself": Looping,
    "hears itself": lambda: Looping(recurrent=True),
    "hears what follows": lambda: Looping(feedback=True),
    "hears itself and what follows": lambda: Looping(recurrent=True, feedback=True),
}


@cache
def initialised(case: str) -> tuple[nn.Module, fluctua.Report]:
    """For tests that change nothing."""
    model = CASES[case]()
    return model, fluctua.initialize(model, trains(), seed=0, neurons=NEURONS)


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_population_reaches_its_target(case: str) -> None:
    model, x = CASES[case](), trains()
    fluctua.initialize(model, x, Target(mean=0.1, xi=1.2), seed=0, neurons=NEURONS)
    tolerance = 0.1 if "hears" in case else 0.02
    for mu_u, sigma_u in moments(model, x).values():
        assert mu_u == pytest.approx(0.1, abs=0.05)
        assert sigma_u == pytest.approx(0.9 / 1.2, rel=tolerance)


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_report_says_what_the_neurons_do(case: str) -> None:
    (model, report), x = initialised(case), trains()
    looked = fluctua.inspect(model, x, neurons=NEURONS)
    for name, (mu_u, sigma_u) in moments(model, x).items():
        for state in (report[name], looked[name]):
            assert state.mu_u == pytest.approx(mu_u, abs=1e-4)
            assert state.sigma_u == pytest.approx(sigma_u, rel=1e-3)
    assert looked[-1].rate == pytest.approx(float(run(model, x).detach().mean()), rel=1e-5)


def test_rates_are_per_step_until_someone_says_how_long_a_step_is() -> None:
    model, x = stack(2), trains()
    per_step = fluctua.inspect(model, x, neurons=NEURONS)
    in_hertz = fluctua.inspect(model, x, neurons=NEURONS, dt=2e-3)
    assert "per step" in str(per_step)
    assert "Hz" in str(in_hertz)
    for a, b in zip(per_step.rows(), in_hertz.rows(), strict=True):
        assert a["rate"] == pytest.approx(b["rate"] * 2e-3)
        assert a["rate_predicted"] == pytest.approx(b["rate_predicted"] * 2e-3)
        assert a["latency"] == pytest.approx(b["latency"] / 2e-3)


def test_a_rate_in_hertz_needs_the_time_step() -> None:
    model, x = stack(2), trains()
    with pytest.raises(ValueError, match=r"1 counts time in steps, so a rate of 10 Hz .*give dt="):
        fluctua.initialize(model, x, Target(rate=10.0), neurons=NEURONS)
    report = fluctua.initialize(model, x, Target(rate=20.0), neurons=NEURONS, dt=1e-3, seed=0)
    assert [p.rate for p in report] == pytest.approx([20.0, 20.0], rel=0.02)


@pytest.mark.parametrize("case", sorted(CASES))
def test_only_weights_are_changed(case: str) -> None:
    model, x = CASES[case](), trains()
    model.eval()
    before = initialised(case)[0].state_dict()
    random = torch.get_rng_state()
    fluctua.initialize(model, x, seed=0, neurons=NEURONS)
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "the same seed gives the same weights"
    assert all(module.kept is None for module in model.modules() if isinstance(module, KeepingNeuron))


def test_a_pass_computes_the_wanted_layer_and_nothing_that_follows() -> None:
    """Once every module has shown what it returns, a population costs its own layer only, at any depth."""
    model, x = stack(6), trains(20, 4)
    populations = trace(model, x, neurons=NEURONS)
    passes = Replay(model, x, over_time(model, x, KNOWN, 0), populations)
    calls = dict.fromkeys(range(0, 12, 2), 0)

    def counting(k: int) -> Any:
        forward = model[k].forward

        def counted(x: Tensor) -> Tensor:
            calls[k] += 1
            return forward(x)  # type: ignore[no-any-return, operator]

        return counted

    for k in calls:
        model[k].forward = counting(k)  # type: ignore[method-assign]
    passes.currents(populations[0])  # in which all show what they return
    for k, p in enumerate(populations):
        before = dict(calls)
        with torch.no_grad():
            model[2 * k].weight.mul_(1.5)  # type: ignore[operator, union-attr]
        passes.currents(p)
        passes.done(p)
        assert {j for j in calls if calls[j] > before[j]} <= {2 * k, 2 * k - 2}
        assert calls[2 * k] == before[2 * k] + len(x)


def test_what_a_pass_finds_is_what_the_network_does() -> None:
    model, x = Looping(feedback=True, recurrent=True), trains(30, 4)
    populations = trace(model, x, neurons=NEURONS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)
    really = {name: torch.stack(steps) for name, steps in currents(model, x).items()}
    passes = Replay(model, x, over_time(model, x, KNOWN, 0), populations)
    for group in groups_of(populations):
        spikes_of_group = passes.simulate(group)
        passes.assume(spikes_of_group)
        for p in group:
            (current,) = passes.currents(p)
            assert current is not None
            torch.testing.assert_close(current, really[p.name])
        for p in group:
            passes.done(p)
    passes.finish()


def test_groups_come_in_the_order_in_which_they_hear_each_other() -> None:
    def names(model: nn.Module) -> list[tuple[str, ...]]:
        found: tuple[Population, ...] = trace(model, trains(4, 2), neurons=NEURONS)
        return [tuple(p.name for p in group) for group in groups_of(found)]

    assert names(Looping()) == [("first",), ("second",), ("third",)]
    assert names(Looping(recurrent=True)) == [("first",), ("second",), ("third",)]
    assert names(Looping(feedback=True)) == [("first",), ("second", "third")]


def test_a_network_of_whole_sequences_with_a_layer_of_steps_in_a_module_of_its_own() -> None:
    """A module that loops over its own neuron stands among fluctua's."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.neuron = linear(WIDTH), KeepingNeuron()

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.neuron(self.weight(now)) for now in x])

    from fluctua.neurons import LI, LIF

    model = nn.Sequential(OverTime(linear(50)), LIF(dt=1e-3), Layer(), linear(WIDTH, 5), LI(dt=1e-3))
    report = fluctua.initialize(model, trains(150, 16), seed=0, neurons=NEURONS, dt=1e-3)
    assert [p.name for p in report] == ["1", "2.neuron", "4"]
    assert [p.sigma_u for p in report] == pytest.approx([1.0, 1.0, 0.1], rel=0.02)
