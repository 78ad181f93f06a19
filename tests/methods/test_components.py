"""Laws of the components: the potential is put together from its parts exactly, each with its share."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers.dale import SignedLinear
from fluctua.methods import Measured
from fluctua.methods.components import Component, FreePotential, MeanShift, Solution
from fluctua.methods.population import Goal, fresh, solve
from fluctua.methods.weights import write, write_all
from fluctua.network.preserve import preserved
from fluctua.network.replay import Replay
from fluctua.network.run import plain_call
from fluctua.neurons import LIF, ExcInhLIF
from fluctua.theory import InfeasibleTargetError, Target
from fluctua.theory.laws import Exponential, LogNormal
from shared.circuit_loops import never
from shared.spikes import spikes
from shared.tracing import trace

STEPS, BATCH, N_IN, N = 200, 8, 40, 48


class TwoPorts(nn.Module):
    """Weights of either sign into an excitatory and an inhibitory current, whose time constants differ."""

    def __init__(self) -> None:
        super().__init__()
        self.exc, self.inh = nn.Linear(N_IN, N, bias=False), nn.Linear(N_IN, N, bias=False)
        self.neuron = ExcInhLIF(20e-3, 5e-3, 40e-3)

    def forward(self, x: Tensor) -> Any:
        return self.neuron(self.exc(x), self.inh(x.roll(1, -1)))

    def currents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.exc(x), self.inh(x.roll(1, -1))


class TwoSources(nn.Module):
    """One pathway hears all inputs, the other a few that are far more active."""

    def __init__(self) -> None:
        super().__init__()
        self.many, self.few = nn.Linear(N_IN, N, bias=False), nn.Linear(5, N, bias=False)
        self.neuron = LIF()

    def forward(self, x: Tensor) -> Any:
        return self.neuron(self.many(x) + self.few(x[..., :5].clone()))


class Signed(nn.Module):
    """Two excitatory pathways and an inhibitory one, under Dale's law."""

    def __init__(self, family: Any = None) -> None:
        super().__init__()
        self.one, self.other, self.against = (SignedLinear(N_IN, N, family) for _ in range(3))
        self.neuron = ExcInhLIF()

    def forward(self, x: Tensor) -> Any:
        return self.neuron(*self.currents(x))

    def currents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x) + self.other(x.flip(-1)), self.against(x.roll(3, -1))


def batch(*, seed: int = 0) -> Tensor:
    """Spikes of 20 Hz on average; the first five inputs fire four times as often."""
    x = spikes(STEPS, BATCH, N_IN, p=0.04, seed=seed)
    x[..., :5] = spikes(STEPS, BATCH, 5, p=0.16, seed=seed + 1)
    return x


def potential(neuron: nn.Module, *currents: Tensor) -> Tensor:
    """Of the neuron itself, its threshold out of reach."""
    with torch.no_grad():
        u: Tensor = never(neuron).simulate(*currents).potential
    return u


def variance(u: Tensor) -> float:
    return float(u.var(correction=0))


TARGETS = [Target(), Target(xi=2.0), Target(mean=0.3, xi=1.5), Target(mean=-0.4, sigma=0.6)]


def wanted(target: Target) -> float:
    return target.sigma or (1 - target.mean) / (target.xi or 1.0)


# -- moments and shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=["xi=1", "xi=2", "mean", "negative mean"])
def test_two_pathways_of_different_kernels_reach_the_target_exactly(target: Target) -> None:
    torch.manual_seed(0)
    model, x = TwoPorts(), batch()
    fluctua.initialize(model, x, target, seed=0)
    exc, inh = model.currents(x)
    u = potential(model.neuron, exc, inh)
    assert float(u.mean()) == pytest.approx(target.mean, abs=1e-3)
    assert float(u.std()) == pytest.approx(wanted(target), rel=1e-3)
    assert float(u.mean((0, 1)).std()) < 1e-3, "balanced: no neuron has a mean of its own"
    nothing = torch.zeros_like(exc)
    parts = [variance(potential(model.neuron, exc, nothing)), variance(potential(model.neuron, nothing, inh))]
    assert parts[0] / sum(parts) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("target", TARGETS, ids=["xi=1", "xi=2", "mean", "negative mean"])
def test_the_noise_that_a_mean_brings_is_shared_as_well(target: Target) -> None:
    torch.manual_seed(0)
    model, x = TwoSources(), batch()
    fluctua.initialize(model, x, target, seed=0)
    many, few = model.many(x), model.few(x[..., :5])
    u = potential(model.neuron, many + few)
    assert float(u.mean()) == pytest.approx(target.mean, abs=1e-3)
    assert float(u.std()) == pytest.approx(wanted(target), rel=1e-3)
    parts = [variance(potential(model.neuron, current)) for current in (many, few)]
    assert parts[0] / sum(parts) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("target", TARGETS[:3], ids=["xi=1", "xi=2", "mean"])
@pytest.mark.parametrize("family", [Exponential(), LogNormal(1.0)], ids=["exponential", "log-normal"])
def test_inhibition_cancels_the_mean_of_excitation_neuron_by_neuron(family: Any, target: Target) -> None:
    torch.manual_seed(0)
    model, x = Signed(family), batch()
    fluctua.initialize(model, x, target, seed=0)
    assert all(bool((w >= 0).all()) for w in model.parameters())
    u = potential(model.neuron, *model.currents(x))
    assert float(u.mean()) == pytest.approx(target.mean, abs=1e-3)
    assert float(u.std()) == pytest.approx(wanted(target), rel=1e-3)
    assert float(u.mean((0, 1)).std()) < 1e-3
    one, other = (variance(potential(model.neuron, current)) for current in (model.one(x), model.other(x.flip(-1))))
    assert one / (one + other) == pytest.approx(0.5, abs=1e-3)
    assert potential(model.neuron, model.currents(x)[0]).mean() > target.mean + 0.5, "there is much to cancel"


def test_without_balance_the_mean_holds_for_the_population_alone() -> None:
    torch.manual_seed(0)
    model, x = Signed(), batch()
    fluctua.initialize(model, x, method=Measured(balance=False), seed=0)
    u = potential(model.neuron, *model.currents(x))
    assert float(u.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(u.std()) == pytest.approx(1.0, rel=1e-3)
    assert float(u.mean((0, 1)).std()) > 0.1


# -- what is out of reach --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [TwoPorts, TwoSources, Signed])
def test_the_mean_that_a_refusal_names_is_one_that_can_be_had(make: type[nn.Module]) -> None:
    x = batch()
    with pytest.raises(InfeasibleTargetError, match="the largest feasible mu_u here is") as refusal:
        fluctua.initialize(make(), x, Target(mean=0.97, xi=1.0), seed=0)
    (named,) = re.findall(r"feasible mu_u here is ([\d.]+)", str(refusal.value))
    torch.manual_seed(0)
    model = make()
    report = fluctua.initialize(model, x, Target(mean=0.95 * float(named), xi=1.0), seed=0)
    assert report[0].mu_u == pytest.approx(0.95 * float(named), abs=1e-3)
    assert float(named) > 0.3


def test_weights_of_one_sign_alone_are_refused() -> None:
    model = nn.Sequential(SignedLinear(N_IN, N), LIF())
    with pytest.raises(InfeasibleTargetError, match="where all weights excite, or all inhibit, their variance fixes"):
        fluctua.initialize(model, batch(), seed=0)


def test_weights_of_one_sign_and_weights_of_both_reach_the_target() -> None:
    class Mixed(TwoSources):
        def __init__(self) -> None:
            super().__init__()
            self.few = SignedLinear(5, N)

    torch.manual_seed(0)
    model, x = Mixed(), batch()
    report = fluctua.initialize(model, x, seed=0)
    assert report[0].mu_u == pytest.approx(0.0, abs=1e-3)
    assert report[0].sigma_u == pytest.approx(1.0, rel=1e-3)
    assert bool((model.few.weight >= 0).all())


def test_frozen_weights_count_with_what_they_bring() -> None:
    torch.manual_seed(0)
    model, x = TwoPorts(), batch()
    model.inh.weight.requires_grad_(False)
    frozen = model.inh.weight.clone()
    report = fluctua.initialize(model, x, seed=0)
    u = potential(model.neuron, *model.currents(x))
    assert torch.equal(model.inh.weight, frozen)
    assert float(u.std()) == pytest.approx(1.0, rel=1e-3)
    assert variance(potential(model.neuron, torch.zeros(STEPS, BATCH, N), model.inh(x.roll(1, -1)))) > 0.05
    assert report[0].sigma_u == pytest.approx(1.0, rel=1e-3)
    model.inh.weight.mul_(100)
    with pytest.raises(InfeasibleTargetError, match="through frozen, shared or missing weights alone"):
        fluctua.initialize(model, x, seed=0)


# -- the family of solutions -----------------------------------------------------------------------------------


def solved(model: nn.Module, x: Tensor, target: Target) -> tuple[FreePotential, Solution]:
    (population,) = trace(model, x)
    aim = Goal(target)
    values = fresh(population, aim, torch.Generator().manual_seed(0))
    write_all(values)
    return solve(population, aim, Replay(model, x, plain_call, [population]))


def moments(rig: FreePotential) -> tuple[float, float]:
    u = rig.potential()
    return float(u.mean()), float(u.std(correction=0))


@pytest.mark.parametrize("make", [TwoPorts, Signed])
def test_a_solution_can_be_scaled_grown_and_moved(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, target = make(), Target(mean=0.2, xi=2.0)
    with preserved(model):
        rig, solution = solved(model, batch(), target)
        for scale in (0.9, 1.0, 1.7):
            solution.write(scale)
            assert moments(rig) == pytest.approx((0.2, 0.4 * scale), rel=2e-3)
        for options, mean in (({"grow": 1.2}, 0.2), ({"move": 0.1}, 0.3), ({"grow": 0.8, "move": -0.3}, -0.1)):
            for p, value in solution.values(**options).items():
                write(p, value)
            assert moments(rig)[0] == pytest.approx(mean, abs=2e-3)


def test_what_grows_is_the_fluctuation_alone() -> None:
    torch.manual_seed(0)
    model = TwoPorts()
    with preserved(model):
        rig, solution = solved(model, batch(), Target())
        for grow in (0.7, 1.0, 1.5):
            for p, value in solution.values(grow=grow).items():
                write(p, value)
            assert moments(rig) == pytest.approx((0.0, grow), abs=2e-3)


def test_the_variances_of_parts_are_measured_with_the_weights_as_they_are_and_left() -> None:
    torch.manual_seed(0)
    model, x = TwoPorts().double(), batch().double()
    with preserved(model):
        rig, _ = solved(model, x, Target(sigma=0.5))
        with torch.no_grad():
            model.exc.weight.mul_(3)
        before = [w.detach().clone() for w in model.parameters()]
        parts = [Component({w: torch.zeros_like(w)}) for w in model.parameters()]
        found = rig.variances(parts)
    assert all(torch.equal(w, old) for w, old in zip(model.parameters(), before, strict=True))
    exc, inh = model.currents(x)
    nothing = torch.zeros_like(exc)
    true = [variance(potential(model.neuron, exc, nothing)), variance(potential(model.neuron, nothing, inh))]
    assert found == pytest.approx([v / 0.25 for v in true], rel=1e-9)


def test_parts_are_put_in_proportion_whatever_their_values() -> None:
    torch.manual_seed(0)
    model, x = TwoPorts(), batch()
    with preserved(model):
        rig, _ = solved(model, x, Target())
        ones = [
            Component({w: 7.0 * torch.ones_like(w)}, share)
            for w, share in zip(model.parameters(), (0.8, 0.2), strict=True)
        ]
        together = rig.in_proportion(ones)
        fluctuation = Component({w: value.clone() for w, value in together.values.items()})
        solution = rig.solve([fluctuation], MeanShift(together), Target(sigma=1.0))
        assert solution.lift > 0
        for p, value in together.values.items():
            write(p, value)
        assert rig.variances(ones) == pytest.approx([0.8, 0.2], rel=1e-3)


# -- branches that feed some of the neurons each ----------------------------------------------------------------------


class Concatenated(nn.Module):
    """Branches of several widths side by side, with a layer over all of them or the input beside them."""

    def __init__(
        self, widths: tuple[int, ...] = (4, 24, 4), *, norm: bool = False, bias: bool = False, also: str = ""
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(N_IN, n, bias=bias), nn.LayerNorm(n) if norm else nn.Identity()) for n in widths
        )
        self.over = nn.Linear(N_IN, sum(widths), bias=bias)
        self.neuron, self.also = LIF(), also

    def current(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        if self.also == "input":
            parts.append(x)
        current = torch.cat(parts, -1)
        return current + self.over(x) if self.also == "layer" else current

    def forward(self, x: Tensor) -> Any:
        return self.neuron(self.current(x))


@pytest.mark.parametrize("target", TARGETS, ids=["xi=1", "xi=2", "mean", "negative mean"])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"norm": True}], ids=["plain", "biases", "norms"])
def test_branches_side_by_side_each_bring_their_neurons_to_the_target(options: dict[str, bool], target: Target) -> None:
    model, x = Concatenated(**options), batch()  # type: ignore[arg-type]
    fluctua.initialize(model, x, target, seed=0)
    for u in torch.split(potential(model.neuron, model.current(x)), [4, 24, 4], -1):
        assert float(u.mean()) == pytest.approx(target.mean, abs=0.01)
        assert float(u.std()) == pytest.approx(wanted(target), rel=0.01)


def test_neurons_that_no_weight_feeds_do_not_count() -> None:
    model, x = Concatenated(also="input"), batch()
    fluctua.initialize(model, x, seed=0)
    u = potential(model.neuron, model.current(x))[..., :32]
    assert (float(u.mean()), float(u.std())) == pytest.approx((0.0, 1.0), abs=0.01)


def test_what_feeds_all_neurons_brings_the_share_that_is_left_of_each() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.all, self.some, self.neuron = nn.Linear(N_IN, 64), nn.Linear(N_IN, 32), LIF()

        def forward(self, x: Tensor) -> Any:
            return self.neuron(self.all(x) + nn.functional.pad(self.some(x), (0, 32)))

    model, x = Partly(), batch()
    fluctua.initialize(model, x, seed=0)
    both, alone = potential(model.neuron, model.all(x)).chunk(2, -1)
    # Each neuron's variance is that of its 40 draws; of 32 neurons' mean the error is sqrt(2 / 40 / 32) = 4 %.
    assert variance(alone) == pytest.approx(1.0, rel=0.12)
    assert variance(both) == pytest.approx(0.5, rel=0.12)
    assert variance(potential(model.neuron, model.some(x))) == pytest.approx(0.5, rel=0.12)
